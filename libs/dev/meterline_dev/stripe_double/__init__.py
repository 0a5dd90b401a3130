"""A stateful double of the parts of Stripe that Meterline uses; see README.md beside this file."""

from .levers import Levers, advance_test_clock
from .server import DoubleServer, RunningDouble, running_double
from .settings import DoubleSettings

__all__ = [
    "DoubleServer",
    "DoubleSettings",
    "Levers",
    "RunningDouble",
    "advance_test_clock",
    "running_double",
]
