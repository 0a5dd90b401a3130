"""The life of a timer: running, then stopped or abandoned, then its event. Times in microseconds.

`now_us` is the database's clock, the only one that all replicas share and that a restart does not change.
It may be set back nevertheless: no duration is negative.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from meterline.errors import FailedPreconditionError, InvalidArgumentError

from meterline_ingest.event_types.rules.types import TimerPolicy, WhenAbandoned

MAX_TIMER_ID: Final = 128
ABANDONED: Final = "abandoned"
# Longer than any service is unavailable; after this the name of a finished timer may be used again.
FORGET_AFTER_US: Final = 30 * 86_400_000_000

_SECOND: Final = 1_000_000
_FIRST_RETRY_US: Final = 1 * _SECOND
_LONGEST_RETRY_US: Final = 600 * _SECOND


class TimerState(IntEnum):
    """Numbers as in the API."""

    RUNNING = 1
    STOPPING = 2
    STOPPED = 3
    ABANDONED = 4
    DISCARDED = 5


@dataclass(frozen=True, slots=True)
class Content:
    """The content of the event, apart from the duration."""

    source: str
    event_type: str
    subject: str
    dimensions: Mapping[str, str] = field(default_factory=dict)
    quantities: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timer:
    """
    last_heartbeat_us: the time of the last message about it, which may be its start
    has_heartbeat: whether a heartbeat was among these messages
    due_us: when a sweep must process it next; None when nothing is left to do
    """

    tenant_id: int
    timer_id: str
    content: Content
    started_by_caller: bool
    started_us: int
    last_heartbeat_us: int
    state: TimerState = TimerState.RUNNING
    stopped_us: int | None = None
    flags: tuple[str, ...] = ()
    event_id: uuid.UUID | None = None
    problem: str = ""
    attempts: int = 0
    due_us: int | None = None
    has_heartbeat: bool = False

    @property
    def duration_us(self) -> int:
        """From start to stop."""
        return max(0, (self.stopped_us or self.started_us) - self.started_us)

    def same_request(self, other: Timer) -> bool:
        """Whether the same request would start `other`."""
        return (
            self.content == other.content
            and self.started_by_caller == other.started_by_caller
            and (not self.started_by_caller or self.started_us == other.started_us)
        )

    def heartbeat(self, policy: TimerPolicy, now_us: int) -> Timer:
        """Raises FailedPreconditionError when it has ended."""
        self._require(TimerState.RUNNING)
        beat_us = max(now_us, self.last_heartbeat_us)
        return replace(self, last_heartbeat_us=beat_us, has_heartbeat=True, due_us=deadline(beat_us, policy))

    def stop(self, stopped_us: int | None, now_us: int, max_ahead_us: int) -> Timer:
        """The timer, stopped for good if it was not already; `stopped_us` None is now.

        Raises InvalidArgumentError for an impossible time, FailedPreconditionError when it was abandoned.
        """
        if self.state in (TimerState.STOPPING, TimerState.STOPPED) and ABANDONED not in self.flags:
            return self
        self._require(TimerState.RUNNING)
        if stopped_us is None:
            # The clock may have been set back since the last beat.
            stopped_us = max(now_us, self.last_heartbeat_us)
        # A whole timer may be reported afterwards: when its start was reported says nothing about its end.
        elif stopped_us < (self.last_heartbeat_us if self.has_heartbeat else self.started_us):
            raise InvalidArgumentError("stopped_at", "not before the start and the last heartbeat")
        elif stopped_us > now_us + max_ahead_us:
            raise InvalidArgumentError("stopped_at", "not ahead of the server's clock")
        return self._ended(stopped_us, now_us)

    def sweep(self, policy: TimerPolicy, now_us: int) -> Timer:
        """The timer, abandoned if no heartbeat came in time; unchanged while there is time left."""
        if self.state is not TimerState.RUNNING:
            return self
        given_up_us = deadline(self.last_heartbeat_us, policy)
        if now_us < given_up_us:
            # The policy may allow more time since.
            return replace(self, due_us=given_up_us)
        if policy.when_abandoned is WhenAbandoned.DISCARD:
            return replace(
                self, state=TimerState.DISCARDED, stopped_us=given_up_us, due_us=now_us + FORGET_AFTER_US
            )
        counted = policy.when_abandoned is WhenAbandoned.COUNT_TO_HEARTBEAT
        ended = self._ended(self.last_heartbeat_us if counted else given_up_us, now_us)
        return replace(ended, flags=(*ended.flags, ABANDONED))

    def settled(self, now_us: int) -> Timer:
        """The timer after its event was accepted."""
        state = TimerState.ABANDONED if ABANDONED in self.flags else TimerState.STOPPED
        return replace(self, state=state, problem="", due_us=now_us + FORGET_AFTER_US)

    def refused(self, problem: str, now_us: int) -> Timer:
        """The timer after its event was refused: it is tried again, at growing intervals."""
        wait = min(_LONGEST_RETRY_US, _FIRST_RETRY_US << min(self.attempts, 20))
        return replace(self, problem=problem, attempts=self.attempts + 1, due_us=now_us + wait)

    def is_forgotten(self, now_us: int) -> bool:
        """Whether the timer can be deleted: it has ended long ago."""
        over = self.state not in (TimerState.RUNNING, TimerState.STOPPING)
        return over and self.due_us is not None and self.due_us <= now_us

    def _ended(self, stopped_us: int, now_us: int) -> Timer:
        return replace(
            self,
            state=TimerState.STOPPING,
            stopped_us=stopped_us,
            event_id=event_id(self.tenant_id, self.timer_id, self.started_us, stopped_us),
            due_us=now_us + _FIRST_RETRY_US,
        )

    def _require(self, state: TimerState) -> None:
        if self.state is not state:
            raise FailedPreconditionError(f"timer {self.timer_id}", f"is {self.state.name.lower()}")


@dataclass(frozen=True, slots=True)
class TimerFilter:
    """Which timers are listed; None: any."""

    state: TimerState | None = None
    event_type: str | None = None
    subject: str | None = None


def start(
    tenant_id: int,
    timer_id: str,
    content: Content,
    policy: TimerPolicy,
    started_us: int | None,
    now_us: int,
    max_ahead_us: int,
) -> Timer:
    """A new timer; `started_us` None is now. Raises InvalidArgumentError."""
    if started_us is not None and started_us > now_us + max_ahead_us:
        raise InvalidArgumentError("started_at", "not ahead of the server's clock")
    beat_us = now_us if started_us is None else max(started_us, now_us)
    return Timer(
        tenant_id,
        timer_id,
        content,
        started_us is not None,
        now_us if started_us is None else started_us,
        beat_us,
        due_us=deadline(beat_us, policy),
    )


def deadline(beat_us: int, policy: TimerPolicy) -> int:
    """When a timer with its last heartbeat at `beat_us` is abandoned."""
    return beat_us + policy.abandoned_after_seconds * _SECOND


def event_id(tenant_id: int, timer_id: str, started_us: int, stopped_us: int) -> uuid.UUID:
    """The same on every attempt, so that the event counts once: a UUIDv7 of the time of the stop."""
    named = f"{tenant_id}\0{timer_id}\0{started_us}".encode()
    random = hashlib.blake2b(named, digest_size=10, person=b"meterline.timer").digest()
    value = (stopped_us // 1_000 & (1 << 48) - 1) << 80 | int.from_bytes(random)
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
