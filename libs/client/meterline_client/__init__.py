"""Meterline's client: records usage events in an application and delivers them. See docs/client.md."""

from meterline_client.breaker import BreakerState
from meterline_client.client import Client
from meterline_client.events import Event, Outcome, OutcomeKind
from meterline_client.lifecycle import exit_on_sigterm
from meterline_client.signing import CaptureConfig
from meterline_client.stats import Stats
from meterline_client.tuning import Tuning

__all__ = [
    "BreakerState",
    "CaptureConfig",
    "Client",
    "Event",
    "Outcome",
    "OutcomeKind",
    "Stats",
    "Tuning",
    "exit_on_sigterm",
]
