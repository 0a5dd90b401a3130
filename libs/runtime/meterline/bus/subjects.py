"""The one table of all facts: subject, stream, who publishes, who consumes, which message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from google.protobuf.message import Message
from meterline_protos.events.v1 import events_pb2


@dataclass(frozen=True, slots=True)
class Fact:
    """One kind of fact. `subject` may end in `>`; a publisher fills in the rest."""

    subject: str
    stream: str
    publisher: str
    consumers: tuple[str, ...]
    message: type[Message]

    def consumer_name(self, service: str) -> str:
        """The durable consumer that all replicas of `service` share."""
        if service not in self.consumers:
            raise ValueError(f"{service} does not consume {self.subject}")
        return f"{service}-{self.stream.lower()}"


EVENTS_ACCEPTED: Final = Fact(
    "events.accepted.>", "EVENTS", "ingest", ("aggregate",), events_pb2.EventsAccepted
)
TENANTS_CHANGED: Final = Fact(
    "tenants.changed", "TENANTS", "identity", ("ingest", "aggregate", "publisher"), events_pb2.TenantChanged
)
USAGE_WINDOW: Final = Fact(
    "usage.window", "USAGE", "aggregate", ("publisher",), events_pb2.UsageWindowsChanged
)
INVOICES_CHANGED: Final = Fact("invoices.changed", "INVOICES", "publisher", (), events_pb2.InvoiceChanged)

FACTS: Final = (EVENTS_ACCEPTED, TENANTS_CHANGED, USAGE_WINDOW, INVOICES_CHANGED)

# How long the broker keeps a message. The outbox keeps it longer, and `Replay` sends it again.
STREAM_MAX_AGE: Final = timedelta(days=3)


def events_accepted(shard: int = 0) -> str:
    """Replicas of a consumer may take shards of their own."""
    return f"events.accepted.{shard}"


def facts_of(service: str, facts: Sequence[Fact] = FACTS) -> tuple[Fact, ...]:
    """The facts that a service publishes or consumes."""
    return tuple(fact for fact in facts if service == fact.publisher or service in fact.consumers)


def stream_subjects(fact: Fact) -> tuple[str, ...]:
    """Where the broker is asked about a fact's stream, and asked to create it."""
    return (f"$JS.API.STREAM.INFO.{fact.stream}", f"$JS.API.STREAM.CREATE.{fact.stream}")


def pull_subject(fact: Fact, consumer: str) -> str:
    """Where messages of a durable consumer are asked for."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{fact.stream}.{consumer}"


def consumer_subjects(fact: Fact, service: str) -> tuple[str, ...]:
    """Where a service creates its durable consumer of a fact, asks for messages and answers them."""
    name = fact.consumer_name(service)
    return (
        f"$JS.API.CONSUMER.DURABLE.CREATE.{fact.stream}.{name}",
        pull_subject(fact, name),
        f"$JS.ACK.{fact.stream}.{name}.>",
    )
