"""The one table of all facts: subject, stream, who publishes, who consumes, which message."""

from __future__ import annotations

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
