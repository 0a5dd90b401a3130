"""What the client counts."""

from __future__ import annotations

from dataclasses import dataclass

from meterline_client.breaker import BreakerState


@dataclass(frozen=True, slots=True)
class Stats:
    """Numbers of events, from the client's start on, unless said otherwise.

    recorded + inherited = accepted + duplicate + conflict + rejected + failed + dropped + buffered + spooled;
    always after `flush` or `close`, and but for events on their way between two states at any other moment.
    """

    recorded: int
    """Calls of `record` that answered with an id."""
    inherited: int
    """Events that ended processes had left in the spool."""
    accepted: int
    duplicate: int
    """Accepted before: sent again because an answer was lost."""

    conflict: int
    rejected: int
    failed: int
    """Given up without a definite answer."""
    dropped: int
    """Lost for lack of space in the buffer and in the spool. Zero, unless something needs attention."""
    buffered: int
    """In memory, not yet acknowledged."""
    spooled: int
    """On disk, not yet acknowledged."""
    retries: int
    """Calls that repeated an earlier one."""
    spool_errors: int
    """Times that the spool or the journal was full, or the disk failed."""
    breaker: BreakerState


@dataclass(slots=True)
class Counters:
    """The same numbers while they are counted; written by one thread, read by all."""

    inherited: int = 0
    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    rejected: int = 0
    failed: int = 0
    dropped: int = 0
    window: int = 0
    """Events taken from the buffer that are in memory: on their way, or waiting to be sent again."""
    spooled: int = 0
    retries: int = 0
    spool_errors: int = 0
