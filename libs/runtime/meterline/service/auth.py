"""Makes the parts of authentication that a service's settings ask for."""

from __future__ import annotations

from meterline.auth.api_keys import KnownKeys, Verify
from meterline.auth.gate import Anybody, Bearers, Gate
from meterline.auth.grants import SERVICES
from meterline.auth.principals import Principal
from meterline.auth.public_keys import KeyRing
from meterline.auth.rules import Rules
from meterline.auth.tokens import ServiceSigner, ServiceTokens
from meterline.clock import Clock
from meterline.config import ServiceSettings
from meterline.rpc.client import Caller
from meterline.service import tls
from meterline.telemetry.logging import logger

log = logger()


def gate(settings: ServiceSettings, rules: Rules, clock: Clock, verify: Verify | None) -> Gate:
    """The gate of the service's server. `verify` knows API keys; None: none is taken.

    Raises ValueError for public keys that are none, and OSError for a file of them that cannot be read.
    """
    if settings.authentication == "off":
        log.warning("authentication.off", meaning="every caller may do everything; for development only")
        return Gate(rules, Anybody())
    keys = KnownKeys(
        verify or _no_keys, fresh=settings.credential_fresh_seconds, stale=settings.credential_stale_seconds
    )
    ring = KeyRing(settings.service_public_keys_file or settings.service_public_keys)
    return Gate(rules, Bearers(ServiceTokens(ring), keys, clock))


def caller(settings: ServiceSettings, name: str, clock: Clock) -> Caller:
    """How the service presents itself to others. Raises ValueError when it must and has no key."""
    credentials = tls.channel_credentials(settings)
    if settings.service_key is not None:
        signer = ServiceSigner(name, settings.service_key.get_secret_value(), SERVICES[name], clock)
        return Caller(signer.token, credentials)
    if settings.authentication == "required":
        raise ValueError(f"{name} calls other services, so it needs METERLINE_SERVICE_KEY")
    return Caller(None, credentials)


async def _no_keys(key_id: str, digest: bytes) -> Principal | None:
    return None
