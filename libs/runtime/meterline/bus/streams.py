"""The streams of facts: missing ones are created, and one that takes other messages is refused."""

from __future__ import annotations

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from meterline.bus.safety import UnsafeBrokerError
from meterline.bus.subjects import STREAM_MAX_AGE, Fact


async def ensure_stream(jetstream: JetStreamContext, fact: Fact, replicas: int) -> None:
    """A full stream refuses new messages, so that they stay in the outbox; it never drops old ones.

    Raises UnsafeBrokerError when there is a stream of that name that takes or passes on other messages.
    """
    try:
        found = await jetstream.stream_info(fact.stream)
    except nats.js.errors.NotFoundError:
        found = await jetstream.add_stream(
            StreamConfig(
                name=fact.stream,
                subjects=[fact.subject],
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW,
                max_age=STREAM_MAX_AGE.total_seconds(),
                duplicate_window=120.0,
                num_replicas=replicas,
            )
        )
    _require_own_messages_only(found.config, fact)


def _require_own_messages_only(config: StreamConfig, fact: Fact) -> None:
    """The broker copies messages between streams without checking permissions, so the creator of the stream
    could have filled it with messages that it may not publish."""
    if config.subjects != [fact.subject]:
        raise UnsafeBrokerError(f"stream {fact.stream} must have the subject {fact.subject} and no other")
    for name in ("mirror", "sources", "republish", "subject_transform"):
        if getattr(config, name):
            raise UnsafeBrokerError(f"stream {fact.stream} must have no `{name}`: it bypasses permissions")
