"""What Stripe's billing meters accept, and how long they remember an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline_publisher.providers.capabilities import Capabilities

STRIPE: Final = Capabilities(
    name="stripe",
    bills=True,
    max_digits=15,
    max_identifier=100,
    # Stripe refuses a known identifier for at least 24 hours after it received the event. One hour is the
    # margin for clocks that differ and for calls that hang.
    identifier_memory=timedelta(hours=23),
    # Stripe's period may end an hour earlier or later than the tenant's month, because its anchor does not
    # follow daylight-saving time.
    period_edge=timedelta(hours=2),
    exact_sums_below=2**53,
)
