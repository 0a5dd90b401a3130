"""A stateful double of the parts of Stripe that Meterline uses; see README.md in this folder."""

from .control_client import ControlClient, advance_test_clock
from .server import DoubleServer, RunningDouble, running_double
from .settings import DoubleSettings

__all__ = [
    "ControlClient",
    "DoubleServer",
    "DoubleSettings",
    "RunningDouble",
    "advance_test_clock",
    "running_double",
]
