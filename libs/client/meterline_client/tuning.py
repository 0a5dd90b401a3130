"""Settings that few applications need to change, with the reason for each default."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Times are in seconds, sizes in bytes. ValueError for anything that is not above zero."""

    max_buffer_bytes: int = 128 << 20
    """Approximate memory of buffered events. Bounds the buffer in addition to `max_buffer_events`, for events
    with long texts and many dimensions."""
    max_in_flight: int = 4
    """Batches on their way at a time: enough to hide the round trip to another region."""
    call_timeout: float = 10.0
    """Deadline of one attempt."""
    backoff_base: float = 0.1
    """Longest wait before the first retry; it doubles with each one."""
    backoff_longest: float = 30.0
    """Longest wait between two attempts."""
    doubtful_attempts: int = 5
    """Attempts with a batch on which the server fails (INTERNAL, UNKNOWN) before it is cut into smaller ones,
    and with a single event before it is given up."""
    breaker_failures: int = 5
    """Failures in a row that open the circuit breaker."""
    breaker_cooldown: float = 1.0
    """How long the breaker stays open at first; doubles with each probe that fails."""
    breaker_longest: float = 30.0
    """Longest time between two probes."""
    spool_after: float = 5.0
    """How long the server may fail before batches go to disk instead of waiting in memory."""
    spool_retry: float = 5.0
    """How long the spool is not tried again after it was full or the disk failed."""
    spool_scan: float = 10.0
    """How often a process looks in the spool for batches of processes that have ended."""
    max_spool_bytes: int = 256 << 20
    """Disk space for batches of this process, and as much for its journal at the most; what ended processes
    left comes on top."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ValueError(f"{item.name}: must be above zero")
