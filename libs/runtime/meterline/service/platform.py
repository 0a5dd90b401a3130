"""The parts that every service has in addition to its own, created from its settings in one order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import TypeVar

from meterline.auth.api_keys import Verify
from meterline.auth.rules import rules_of
from meterline.bus.connection import Bus
from meterline.bus.subjects import Fact
from meterline.clock import Clock
from meterline.config import ServiceSettings
from meterline.consuming.consumer import Consumer
from meterline.consuming.dead_letter_report import DeadLetterReport
from meterline.consuming.delivery import Handler
from meterline.consuming.parts import Split
from meterline.db.pool import Database
from meterline.operations.api import dead_letters_service
from meterline.rpc.client import Caller, Link
from meterline.rpc.server import Server, Servicer
from meterline.service import auth, tls
from meterline.service.api_keys import verifier
from meterline.service.run import Component
from meterline.tasks import every
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import UnitOfWork

C = TypeVar("C", bound=Component)

# How often dead letters are counted for the metric.
_REPORT_SECONDS = 10.0


class Platform:
    """Database, broker, outbox and server of one process. A service derives from it and adds its own parts.

    Parts start in the order in which they are added, after database, broker and relay, and stop in reverse.
    Make it inside the event loop.
    """

    server: Server

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        clock: Clock,
        *,
        generic_plans: bool = False,
        relay_linger: float = Relay.LINGER,
    ) -> None:
        """
        name: of the service: its schema, its login at the broker, and the issuer of its tokens
        generic_plans: whether Postgres plans each statement once and not for its values
        relay_linger: seconds that the relay waits after a commit, so that several share a transaction
        """
        self._settings = settings
        self.name = name
        self.clock = clock
        self.database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{name}",
            generic_plans=generic_plans,
        )
        self.bus = Bus(settings.nats_url.get_secret_value(), name=name, replicas=settings.jetstream_replicas)
        relay = Relay(self.database, self.bus, linger=relay_linger)
        self.unit_of_work = UnitOfWork(self.database, relay.wake)
        self._components: list[Component] = [self.database, self.bus, relay]
        self._consumers: list[Consumer] = []

    @property
    def components(self) -> Sequence[Component]:
        """In the order of their start; the server is not among them."""
        return self._components

    @cached_property
    def caller(self) -> Caller:
        """How this service presents itself to others. Raises ValueError when it must and has no key."""
        return auth.caller(self._settings, self.name, self.clock)

    def add(self, component: C) -> C:
        """Starts it after all that were added before."""
        self._components.append(component)
        return component

    def link(self, name: str, address: str) -> Link:
        """A channel to another service; see `Link`."""
        return self.add(Link(name, address, self.caller))

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Repeats `work`; see `tasks.every`."""
        self.add(every(seconds, name, work))

    def consume(
        self,
        fact: Fact,
        handler: Handler,
        *,
        split: Split | None = None,
        max_messages: int = Consumer.MAX_MESSAGES,
        linger: float = 0.0,
    ) -> None:
        """Feeds `handler` with the messages of `fact`; see `Consumer`."""
        settings = self._settings
        consumer = Consumer(
            self.bus,
            self.unit_of_work,
            fact,
            self.name,
            handler,
            split=split,
            max_messages=max_messages,
            linger=linger,
            ack_wait=settings.ack_wait_seconds,
            rules=settings.burial_rules,
        )
        if not self._consumers:
            report = DeadLetterReport(self.database).report
            self.add(every(_REPORT_SECONDS, "dead-letters", report, first=0.0))
        self._consumers.append(self.add(consumer))

    def serve(self, *servicers: Servicer, api_keys: Verify | Link) -> None:
        """Makes the server of these, and of dead letters if the service consumes anything.

        api_keys: verifies API keys, or leads to identity, which does
        """
        settings, served = self._settings, list(servicers)
        if self._consumers:
            served.append(dead_letters_service(self.database, self._consumers))
        rules = rules_of(name for name, *_ in served)
        verify = verifier(api_keys.channel) if isinstance(api_keys, Link) else api_keys
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            served,
            gate=auth.gate(settings, rules, self.clock, verify),
            bounds=settings.bounds,
            credentials=tls.server_credentials(settings),
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )
