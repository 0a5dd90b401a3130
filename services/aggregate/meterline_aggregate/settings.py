"""What aggregate can be told."""

from __future__ import annotations

from meterline.config import ServiceSettings
from pydantic import Field

from meterline_aggregate.folding.groups import DEFAULT_MOST


class AggregateSettings(ServiceSettings):
    """What every service has, and:"""

    identity_address: str = Field(min_length=1)
    """host:port of identity, asked whom API keys belong to."""
    ingest_address: str = ""
    """host:port of ingest's API; empty: nothing is compared or rebuilt, no reference of a meter checked."""
    emit_seconds: float = Field(default=60.0, gt=0)
    """How often changed month windows are published."""
    reconcile_seconds: float = Field(default=60.0, gt=0)
    """How often accepted and aggregated events are compared, when ingest's address is known."""
    linger_seconds: float = Field(default=0.05, ge=0, le=1)
    """Pause between transactions, so that more messages share one: fewer writes, later figures."""
    batch_messages: int = Field(default=64, ge=1, le=256)
    """Most messages a transaction."""
    max_groups: int = Field(default=DEFAULT_MOST, ge=1, le=1_000_000)
    """Most groups of one tenant by one set of dimensions; what is beyond counts as the rest."""
