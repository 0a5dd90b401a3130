"""Failures with a name. `rpc.errors` turns them into gRPC statuses, `consuming` into ack or retry.

Two kinds of failure of a message are kept apart: `RetryLater` (it will work once something else has
happened) and `Poison` (it will not, whatever happens).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping


class MeterlineError(Exception):
    """Base of all failures that are part of the contract.

    reason: a stable code in upper case, which callers get in ErrorInfo; one of a kind, where an instance has
        none of its own
    """

    reason: str = "INTERNAL_FAULT"


class InvalidArgumentError(MeterlineError):
    """The request itself is wrong: `field` breaks `rule`."""

    def __init__(self, field: str, rule: str, reason: str = "INVALID_ARGUMENT") -> None:
        super().__init__(f"{field}: {rule}")
        self.field = field
        self.rule = rule
        self.reason = reason


class UnauthenticatedError(MeterlineError):
    """The caller is not authenticated. `details` help callers to correct this, and contain no secrets."""

    def __init__(self, rule: str, reason: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(rule)
        self.reason = reason
        self.details = details or {}


class PermissionDeniedError(MeterlineError):
    """The caller is authenticated, and has no permission for this call."""

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(rule)
        self.reason = reason


class NotFoundError(MeterlineError):
    """There is no such thing, or not for this tenant. `hint` says what else may be wrong."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(f"no {kind} {name!r}" + (f"; {hint}" if hint else ""))
        self.kind = kind
        self.name = name


class AlreadyExistsError(MeterlineError):
    """The name is taken by something else."""

    reason = "ALREADY_EXISTS"

    def __init__(self, kind: str, name: str, rule: str) -> None:
        super().__init__(f"{kind} {name!r} exists: {rule}")
        self.kind = kind
        self.name = name


class FailedPreconditionError(MeterlineError):
    """The state of the system forbids it; the same call will fail again.

    reason: by which callers may recognise the error
    """

    reason = "FAILED_PRECONDITION"

    def __init__(self, subject: str, rule: str, reason: str = "") -> None:
        super().__init__(f"{subject}: {rule}")
        self.subject = subject
        self.rule = rule
        if reason:
            self.reason = reason


class ShreddedError(FailedPreconditionError):
    """The keys that could read it were destroyed, for good."""

    reason = "DATA_SHREDDED"


class TamperedError(MeterlineError):
    """A stored value is not the one that was sealed, or is in another place. Must not be retried."""

    reason = "DATA_TAMPERED"


class AbortedError(MeterlineError):
    """Something changed, or is changing, meanwhile: repeat, after `retry_after` seconds if that is known."""

    reason = "ABORTED"

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class OverloadedError(MeterlineError):
    """A bounded queue is full; repeat after `retry_after` seconds."""

    reason = "OVERLOADED"

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(f"{what} is full")
        self.what = what
        self.retry_after = retry_after


class QuotaError(MeterlineError):
    """An agreed limit is used up; repeat after `retry_after` seconds.

    violations: by subject (`tenant:acme`), what its limit is
    """

    reason = "QUOTA_EXCEEDED"

    def __init__(self, violations: Mapping[str, str], retry_after: float) -> None:
        super().__init__("; ".join(f"{subject}: {limit}" for subject, limit in violations.items()))
        self.violations = violations
        self.retry_after = retry_after


class InternalError(MeterlineError):
    """A fault of the service, which it has logged. The text reveals nothing about its cause."""


class UnavailableError(MeterlineError):
    """A service, server or pool that is needed does not answer; repeat with backoff."""

    reason = "UNAVAILABLE"


class MessageError(MeterlineError):
    """Messages that cannot be applied.

    messages: the ids of those at fault, if the handler of a batch knows them; the others are then repeated
    as one batch. Empty: it does not know.
    """

    def __init__(self, why: str, messages: Collection[uuid.UUID] = ()) -> None:
        super().__init__(why)
        self.messages = frozenset(messages)


class RetryLater(MessageError):
    """A message cannot be applied yet: deliver it again after `delay` seconds."""

    reason = "UNAVAILABLE"

    def __init__(self, why: str, delay: float = 0.25, messages: Collection[uuid.UUID] = ()) -> None:
        super().__init__(why, messages)
        self.delay = delay


class Poison(MessageError):
    """A message can never be applied: keep it with the reason and go on."""
