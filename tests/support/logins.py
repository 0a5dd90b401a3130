"""A broker with a login for each service, and the operations that each of them attempts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import nats
from meterline.bus.permissions import authorization, inbox_prefix, services
from meterline.bus.subjects import FACTS, Fact
from meterline_dev.servers import NatsServer
from meterline_dev.testing import scratch_directory
from nats.aio.client import Client

from tests.support.polling import eventually

OPERATOR: Final = "operator"
_REFUSED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


def password_of(user: str) -> str:
    return f"secret-of-{user}"


def authorization_of_tests() -> dict[str, Any]:
    """The logins of the services, and an operator with all permissions."""
    operator = {"user": OPERATOR, "password": password_of(OPERATOR)}
    return {
        "users": [
            operator,
            *authorization({service: password_of(service) for service in services()})["users"],
        ]
    }


@contextmanager
def broker_with_logins(users: dict[str, Any] | None = None) -> Iterator[NatsServer]:
    """A separate broker for the test; its `url` is the operator's."""
    settings = {"authorization": users or authorization_of_tests()}
    with (
        scratch_directory() as place,
        NatsServer(
            place / "nats", user=OPERATOR, password=password_of(OPERATOR), settings=settings
        ) as server,
    ):
        yield server


def url_of(broker: NatsServer, user: str) -> str:
    return broker.url_of(user, password_of(user))


@asynccontextmanager
async def logged_in(broker: NatsServer, user: str) -> AsyncIterator[tuple[Client, list[str]]]:
    """A connection of a user, and the list of operations that the broker has refused on it."""
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    client = await nats.connect(
        url_of(broker, user), inbox_prefix=inbox_prefix(user), error_cb=note, allow_reconnect=False
    )
    try:
        yield client, refused
    finally:
        await client.close()


@dataclass(frozen=True)
class Attempts:
    """Subjects to publish to and to subscribe to."""

    publish: frozenset[str]
    subscribe: frozenset[str]

    def __sub__(self, other: Attempts) -> Attempts:
        return Attempts(self.publish - other.publish, self.subscribe - other.subscribe)


def sample(fact: Fact) -> str:
    """An example subject of this fact."""
    return fact.subject.replace(">", "0")


def consumer_attempts(fact: Fact, service: str) -> dict[str, str]:
    """All requests to the durable consumer that a service has, or would have, for a fact."""
    stream, name = fact.stream, f"{service}-{fact.stream.lower()}"
    api = "$JS.API.CONSUMER"
    return {
        "durable": f"{api}.DURABLE.CREATE.{stream}.{name}",
        "next": f"{api}.MSG.NEXT.{stream}.{name}",
        "ack": f"$JS.ACK.{stream}.{name}.1.1.1.1795962616912867794.0",
        "create": f"{api}.CREATE.{stream}.{name}",
        "filtered": f"{api}.CREATE.{stream}.{name}.{sample(fact)}",
        "info": f"{api}.INFO.{stream}.{name}",
        "delete": f"{api}.DELETE.{stream}.{name}",
        "pause": f"{api}.PAUSE.{stream}.{name}",
    }


def all_attempts(facts: Sequence[Fact] = FACTS) -> Attempts:
    """All attempts for all facts and all services."""
    publish = {"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$SYS.REQ.SERVER.PING", "other"}
    subscribe = {">", "*.>", "$JS.>", "$SYS.>", "_INBOX.>", "_INBOX.*.>"}
    verbs = ("INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE")
    for fact in facts:
        publish |= {sample(fact), f"$JS.API.DIRECT.GET.{fact.stream}", f"$JS.API.CONSUMER.LIST.{fact.stream}"}
        publish |= {f"$JS.API.STREAM.{verb}.{fact.stream}" for verb in verbs}
        publish.add(f"$JS.API.CONSUMER.CREATE.{fact.stream}")
        subscribe |= {sample(fact), fact.subject, f"$JS.ACK.{fact.stream}.>"}
        for service in services(facts):
            publish |= set(consumer_attempts(fact, service).values())
    for service in services(facts):
        publish.add(f"_INBOX.{service}.answer")
        subscribe |= {f"_INBOX.{service}.answer", f"_INBOX.{service}.>"}
    return Attempts(frozenset(publish), frozenset(subscribe))


async def refused(broker: NatsServer, user: str, attempts: Attempts) -> Attempts:
    """The attempts that the broker refuses to a user."""
    async with logged_in(broker, user) as (client, errors):
        for subject in sorted(attempts.subscribe):
            await client.subscribe(subject)
        for subject in sorted(attempts.publish):
            await client.publish(subject, b"{}")
        # Flush first, since a ping overtakes unsent messages. The broker answers in order.
        await eventually(lambda: client.pending_data_size == 0)
        await client.flush()
        found = {kind: set[str]() for kind in ("publish", "subscription")}
        for error in errors:
            match = _REFUSED.search(error)
            assert match, error
            found[match[1].lower()].add(match[2].lower())
    # The client reports subjects in lower case.
    return Attempts(
        frozenset(subject for subject in attempts.publish if subject.lower() in found["publish"]),
        frozenset(subject for subject in attempts.subscribe if subject.lower() in found["subscription"]),
    )
