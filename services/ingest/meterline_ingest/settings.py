"""The settings of ingest, from METERLINE_… variables."""

from __future__ import annotations

from typing import Self

from meterline.config import ServiceSettings
from meterline.crypto.master_keys import MasterKeys
from pydantic import Field, SecretStr, field_validator, model_validator

from meterline_ingest.capture.rules.horizon import LEAST_DAYS


class IngestSettings(ServiceSettings):
    identity_address: str
    """host:port; queried for tenants that this service does not know yet."""
    aggregate_address: str = ""
    """host:port; queried for the effect of a correction on usage, and whether events to delete were counted.
    Needed with a retention; otherwise, when it is empty, dry runs report the effect as unknown."""
    publisher_address: str = ""
    """host:port; queried for the effect of a correction on invoices. Empty: dry runs report it as unknown."""
    max_event_age_days: float = Field(default=35, gt=0)
    """Older events are rejected. The billing provider accepts usage from at most 35 days ago."""
    raw_event_retention_days: int = Field(default=0, ge=0)
    """Raw events of months that ended longer ago are deleted, and such events are no longer accepted. 0 keeps
    all; otherwise at least 62."""
    max_event_ahead_seconds: float = Field(default=300, ge=0)
    clock_skew_tolerance_seconds: float = Field(default=5, ge=0)
    """Event times of a call are corrected if its times of sending and receipt differ by more than this."""
    max_running_timers_per_tenant: int = Field(default=100_000, ge=1)
    """Most running timers of a tenant; starting another one returns RESOURCE_EXHAUSTED."""
    commit_workers: int = Field(default=3, ge=1, le=64)
    """Concurrent transactions. Calls that arrive while all are busy share a batch, so fewer make larger
    batches."""
    commit_window_ms: float = Field(default=5, ge=0)
    """How long, in milliseconds, a small call waits for others to share its transaction; up to eight times as
    long while more arrive."""
    max_queued_events: int = Field(default=100_000, ge=1)
    """Most events waiting for a commit; further calls get RESOURCE_EXHAUSTED."""
    max_quarantined_per_tenant: int = Field(default=100_000, ge=0)
    """Most rejected events of a tenant that are stored for a replay; further ones are only rejected."""
    max_quarantined_bytes_per_tenant: int = Field(default=1 << 30, ge=0)
    """Most bytes of a tenant's stored rejected events, including settled ones; further events are only
    rejected."""
    max_series_per_tenant: int = Field(default=100_000, ge=1)
    """Most combinations of type and dimensions of a tenant, unless its limits set another number. Events with
    further combinations are rejected."""
    max_subjects_per_tenant: int = Field(default=1_000_000, ge=1)
    """Most subjects of a tenant, unless its limits set another number. Events with further ones are
    rejected."""
    quarantine_days: float = Field(default=0, ge=0)
    """Days after which rejected events that were not replayed are deleted; 0: never. Settled events are kept
    for 30 days."""
    relay_linger_ms: float = Field(default=8, ge=0)
    """How long, in milliseconds, a message waits for others to be published with."""
    master_keys: SecretStr
    """`id:base64 of 32 bytes`, separated by commas. The first one wraps the keys of tenants. The others only
    unwrap keys that they wrapped, and can be removed once those are rewrapped."""
    data_key_max_age_days: float = Field(default=90, gt=0)
    """Age in days at which a tenant's key is replaced by a new one."""
    key_upkeep_seconds: float = Field(default=15, gt=0)
    """Seconds between runs that count keys, rotate due ones, and rewrap."""
    reseal_seconds: float = Field(default=60, gt=0)
    """Seconds between runs that encrypt values of retired keys again with the newest key."""
    reseal_values: int = Field(default=2_000, ge=1)
    """Most values that one transaction of such a run encrypts again."""

    @field_validator("master_keys")
    @classmethod
    def _readable(cls, value: SecretStr) -> SecretStr:
        MasterKeys.parse(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _deletes_only_what_is_counted(self) -> Self:
        days = self.raw_event_retention_days
        if days and (days < LEAST_DAYS or days < self.max_event_age_days):
            raise ValueError(f"a retention is at least {LEAST_DAYS} days, and the age that events may have")
        if days and not self.aggregate_address:
            raise ValueError("a retention needs METERLINE_AGGREGATE_ADDRESS")
        return self
