"""The settings of aggregate."""

from __future__ import annotations

from meterline.config import ServiceSettings
from pydantic import Field

from meterline_aggregate.folding.groups import DEFAULT_MOST


class AggregateSettings(ServiceSettings):
    """The settings of every service, and:"""

    identity_address: str = Field(min_length=1)
    """host:port of identity's API, which verifies API keys."""
    ingest_address: str = ""
    """host:port of ingest's API; empty: no comparisons, rebuilds or checks of meters' references."""
    emit_seconds: float = Field(default=60.0, gt=0)
    """Seconds between publications of changed month windows."""
    reconcile_seconds: float = Field(default=60.0, gt=0)
    """Seconds between comparisons of accepted and aggregated events, when ingest's address is set."""
    linger_seconds: float = Field(default=0.05, ge=0, le=1)
    """Pause in seconds between transactions, so that more messages share one: fewer writes, later figures."""
    batch_messages: int = Field(default=64, ge=1, le=256)
    """Most messages in one transaction."""
    max_groups: int = Field(default=DEFAULT_MOST, ge=1, le=1_000_000)
    """Most groups of one tenant for one set of dimensions; further groups count as one, the rest."""
