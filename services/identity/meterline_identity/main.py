"""Wires identity by hand, and runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from meterline import config
from meterline.bus.connection import Bus
from meterline.clock import Clock, SystemClock
from meterline.crypto.master_keys import MasterKeys
from meterline.crypto.sealer import Sealer
from meterline.db.pool import Database
from meterline.rpc.client import Caller
from meterline.rpc.server import Server
from meterline.service import auth, tls
from meterline.service.run import Component, run
from meterline.transactions.relay import Relay
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.identity.v1 import credentials_pb2_grpc, tenants_pb2_grpc

from meterline_identity.access import RULES
from meterline_identity.credentials.api import CREDENTIALS_SERVICE, CredentialsServicer
from meterline_identity.credentials.api_keys import ApiKeys
from meterline_identity.credentials.signing_keys import SigningKeys
from meterline_identity.settings import IdentitySettings
from meterline_identity.tenants.api import TENANTS_SERVICE, TenantsServicer
from meterline_identity.tenants.peers import Plans
from meterline_identity.tenants.service import Tenants

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
        unit_of_work = UnitOfWork(database, relay.wake)
        # Without an address there is nobody to call, and no key is needed.
        caller = auth.caller(settings, NAME, clock) if settings.publisher_address else Caller()
        plans = Plans(settings.publisher_address, caller)
        tenants = Tenants(database, unit_of_work, clock, plans)
        api_keys = ApiKeys(database, unit_of_work, tenants, clock)
        sealer = Sealer(MasterKeys.parse(settings.master_keys.get_secret_value()))
        signing_keys = SigningKeys(database, unit_of_work, tenants, clock, sealer)
        self.components: Sequence[Component] = (database, bus, relay, plans)
        self.server = Server(
            settings.bind_host,
            settings.grpc_port,
            [
                (
                    TENANTS_SERVICE,
                    tenants_pb2_grpc.add_TenantsServiceServicer_to_server,
                    TenantsServicer(tenants),
                ),
                (
                    CREDENTIALS_SERVICE,
                    credentials_pb2_grpc.add_CredentialsServiceServicer_to_server,
                    CredentialsServicer(api_keys, signing_keys),
                ),
            ],
            gate=auth.gate(settings, RULES, clock, api_keys.verify),
            bounds=settings.bounds,
            credentials=tls.server_credentials(settings),
            drain=settings.shutdown_drain_seconds,
            grace=settings.shutdown_grace_seconds,
        )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IdentitySettings)
    run(NAME, settings, partial(Identity, settings, SystemClock()))


if __name__ == "__main__":
    main()
