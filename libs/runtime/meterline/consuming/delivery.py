"""A message as it was delivered, and the type of its handler."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.msg import Msg

from meterline.errors import MessageError, UnavailableError
from meterline.transactions.unit_of_work import Transaction

# The broker adds one of these when a stream republishes its messages, or is filled from another stream.
_COPIED: Final = frozenset({"Nats-Stream", "Nats-Stream-Source"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it was delivered. `waited` is how many seconds the broker has had it."""

    message_id: uuid.UUID
    subject: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)
    reply: str = ""
    attempt: int = 1
    waited: float = 0.0


Handler = Callable[[Transaction, Sequence[Delivery]], Awaitable[Collection[uuid.UUID] | None]]
"""Applies messages. Answers the ids of those that it knew already by means of its own, if any."""


def to_delivery(message: Msg) -> Delivery | None:
    """None for a message that no service sends: one without an id, or one that the broker copied from another
    stream, which bypasses the permission to publish."""
    headers: dict[str, Any] = dict(message.headers or {})
    if _COPIED & headers.keys():
        return None
    try:
        message_id = uuid.UUID(headers.pop("Nats-Msg-Id", ""))
    except ValueError:
        return None
    about = message.metadata
    return Delivery(
        message_id,
        message.subject,
        message.data,
        headers,
        message.reply,
        about.num_delivered,
        (datetime.now(UTC) - about.timestamp).total_seconds(),
    )


def at_fault(deliveries: Sequence[Delivery], error: Exception) -> frozenset[uuid.UUID]:
    """The messages that the failure of a batch belongs to, as far as that is known."""
    everything = frozenset(delivery.message_id for delivery in deliveries)
    # An unavailable server fails each of them.
    if len(deliveries) == 1 or isinstance(error, UnavailableError):
        return everything
    return everything & error.messages if isinstance(error, MessageError) else frozenset()


def text_of(error: Exception) -> str:
    """Why something failed, in words that are never empty."""
    return str(error) or type(error).__name__
