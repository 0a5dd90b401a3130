"""Connects the parts of identity, and runs it."""

from __future__ import annotations

from functools import partial

from meterline import config
from meterline.clock import Clock, SystemClock
from meterline.crypto.master_keys import MasterKeys
from meterline.crypto.sealer import Sealer
from meterline.rpc.client import Caller
from meterline.rpc.server import service
from meterline.service.platform import Platform
from meterline.service.run import run
from meterline_protos.identity.v1 import credentials_pb2, tenants_pb2

from meterline_identity.credentials.api import CredentialsServicer
from meterline_identity.credentials.api_keys import ApiKeys
from meterline_identity.credentials.signing_keys import SigningKeys
from meterline_identity.settings import IdentitySettings
from meterline_identity.tenants.api import TenantsServicer
from meterline_identity.tenants.peers import Plans
from meterline_identity.tenants.service import Tenants

NAME = "identity"


class Identity(Platform):
    """The parts of one process."""

    def __init__(self, settings: IdentitySettings, clock: Clock) -> None:
        super().__init__(NAME, settings, clock)
        # Without an address there is no peer to call, and no key is needed.
        caller = self.caller if settings.publisher_address else Caller()
        plans = self.add(Plans(settings.publisher_address, caller))
        sealer = Sealer(MasterKeys.parse(settings.master_keys.get_secret_value()))
        tenants = Tenants(self.database, self.unit_of_work, clock, plans)
        api_keys = ApiKeys(self.database, self.unit_of_work, tenants, clock)
        signing_keys = SigningKeys(self.database, self.unit_of_work, tenants, clock, sealer)
        self.serve(
            service(tenants_pb2, "TenantsService", TenantsServicer(tenants)),
            service(credentials_pb2, "CredentialsService", CredentialsServicer(api_keys, signing_keys)),
            api_keys=api_keys.verify,
        )


def main() -> None:
    """Runs until SIGTERM; settings come from the environment."""
    settings = config.load(IdentitySettings)
    run(NAME, settings, partial(Identity, settings, SystemClock()))


if __name__ == "__main__":
    main()
