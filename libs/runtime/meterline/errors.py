"""Failures with a name. `rpc.errors` turns them into gRPC statuses, `bus.consumer` into ack or retry.

Two kinds of failure of a message are kept apart: `Later` (it will work once something else has
happened) and `Never` (it will not, whatever happens).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection


class MeterlineError(Exception):
    """Base of all failures that are part of the contract."""


class InvalidArgumentError(MeterlineError):
    """The request itself is wrong: `field` breaks `rule`."""

    def __init__(self, field: str, rule: str, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule
        self.reason = reason


class NotFoundError(MeterlineError):
    """There is no such thing, or not for this tenant."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no {kind} {name!r}")
        self.kind = kind
        self.name = name


class AlreadyExistsError(MeterlineError):
    """The name is taken by something else."""

    def __init__(self, kind: str, name: str, rule: str) -> None:
        super().__init__(f"{kind} {name!r} exists: {rule}")
        self.kind = kind
        self.name = name


class FailedPreconditionError(MeterlineError):
    """The state of the system forbids it; the same call will fail again."""

    def __init__(self, subject: str, rule: str) -> None:
        super().__init__(f"{subject}: {rule}")
        self.subject = subject
        self.rule = rule


class ShreddedError(FailedPreconditionError):
    """The keys that could read it were destroyed, for good."""


class TamperedError(MeterlineError):
    """Something that is stored is not what was sealed, or not where it was. Never to be repeated."""


class AbortedError(MeterlineError):
    """Somebody else changed it meanwhile; read again, then repeat."""


class OverloadedError(MeterlineError):
    """A bounded queue is full; repeat after `retry_after` seconds."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(f"{what} is full")
        self.what = what
        self.retry_after = retry_after


class UnavailableError(MeterlineError):
    """A part that is needed does not answer; repeat with backoff."""


class MessageError(MeterlineError):
    """Messages that cannot be applied.

    messages: the ids of those at fault, where the handler of a batch can tell; the others are then repeated
    as one batch. Empty: it cannot tell.
    """

    def __init__(self, why: str, messages: Collection[uuid.UUID] = ()) -> None:
        super().__init__(why)
        self.messages = frozenset(messages)


class Later(MessageError):
    """A message cannot be applied yet: deliver it again after `delay` seconds."""

    def __init__(self, why: str, delay: float = 0.25, messages: Collection[uuid.UUID] = ()) -> None:
        super().__init__(why, messages)
        self.delay = delay


class Never(MessageError):
    """A message can never be applied: keep it with the reason and go on."""
