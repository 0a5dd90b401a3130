"""The outcomes of events that were not accepted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Kind(IntEnum):
    """Numbers as in the API."""

    ACCEPTED = 1
    DUPLICATE = 2
    CONFLICT = 3
    REJECTED = 4


class Stage(StrEnum):
    """Where an event was found invalid. Stored as these words."""

    READ = "read"
    VALIDATE = "validate"
    ENRICH = "enrich"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an event was not accepted: `field` breaks the rule `message`; `reason` is a stable code.

    stored_digest, sent_digest: of the bodies, for a conflict
    """

    kind: Kind
    reason: str
    field: str
    message: str
    stored_digest: bytes = b""
    sent_digest: bytes = b""
    stage: Stage = Stage.VALIDATE


DUPLICATE = Problem(Kind.DUPLICATE, "DUPLICATE", "id", "this event was accepted before")


def conflict(stored_digest: bytes, sent_digest: bytes) -> Problem:
    """The same id with another body: the first event is kept."""
    rule = "another event with this id was accepted before; that one stands"
    return Problem(Kind.CONFLICT, "CONFLICT", "id", rule, stored_digest, sent_digest)
