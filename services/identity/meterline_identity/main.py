"""Wires identity by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from meterline import config
from meterline.app import Component, run
from meterline.bus.connection import Bus
from meterline.clock import Clock, SystemClock
from meterline.db.pool import Database
from meterline.db.unit_of_work import UnitOfWork
from meterline.outbox.relay import Relay
from meterline.rpc.server import Server
from meterline_protos.identity.v1 import tenants_pb2_grpc

from meterline_identity.handlers import Handlers
from meterline_identity.servicers import TENANTS_SERVICE, TenantsServicer
from meterline_identity.settings import IdentitySettings

NAME = "identity"


class Identity:
    """The parts of one process. Build it inside the event loop."""

    def __init__(self, settings: IdentitySettings, clock: Clock) -> None:
        database = Database(
            settings.database_url.get_secret_value(),
            size=settings.database_pool_size,
            application_name=f"meterline-{NAME}",
        )
        bus = Bus(settings.nats_url.get_secret_value(), name=NAME, replicas=settings.jetstream_replicas)
        relay = Relay(database, bus)
        handlers = Handlers(database, UnitOfWork(database, relay.wake), clock)
        self.components: Sequence[Component] = (database, bus, relay)
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            [
                (
                    TENANTS_SERVICE,
                    tenants_pb2_grpc.add_TenantsServiceServicer_to_server,
                    TenantsServicer(handlers),
                )
            ],
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IdentitySettings)
    run(NAME, settings, partial(Identity, settings, SystemClock()))


if __name__ == "__main__":
    main()
