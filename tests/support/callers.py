"""Callers for tests of authentication: keys, tokens, and settings that require them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from meterline.auth.grants import SERVICES
from meterline.auth.principals import GRANTABLE, Permission
from meterline.auth.public_keys import KeyRing, entry
from meterline.auth.tokens import ServiceSigner, ServiceTokens, new_private_key, public_key_of
from meterline.clock import Clock, SystemClock
from meterline_dev.channels import metadata
from pydantic import SecretStr

TESTER = "tester"


def _new_keys() -> Mapping[str, str]:
    return {name: new_private_key() for name in (*SERVICES, TESTER)}


@dataclass(frozen=True)
class Authority:
    """A key pair of each service and of one operator named `tester`."""

    private: Mapping[str, str] = field(default_factory=_new_keys, repr=False)

    @property
    def public_keys(self) -> str:
        """The public keys in the form of the services' setting."""
        owners = {name: f"service {name}" for name in SERVICES} | {TESTER: f"operator {TESTER}"}
        return "".join(entry(owners[name], public_key_of(key)) for name, key in self.private.items())

    def tokens(self) -> ServiceTokens:
        return ServiceTokens(KeyRing(self.public_keys))

    def settings(self, service: str) -> dict[str, object]:
        """Adds to `settings_for`: calls need a token of this authority, or an API key."""
        return {
            "authentication": "required",
            "service_key": SecretStr(self.private[service]),
            "service_public_keys": self.public_keys,
        }

    def signer(
        self,
        *permissions: Permission,
        name: str = TESTER,
        tenant: str | None = None,
        clock: Clock | None = None,
        lifetime_seconds: int = 300,
    ) -> ServiceSigner:
        """A signer of a service or of the operator, by default with all grantable permissions."""
        granted: Collection[Permission] = permissions or GRANTABLE
        return ServiceSigner(
            name,
            self.private[name],
            granted,
            clock or SystemClock(),
            tenant=tenant,
            lifetime_seconds=lifetime_seconds,
        )

    def metadata(
        self,
        *permissions: Permission,
        name: str = TESTER,
        tenant: str | None = None,
        clock: Clock | None = None,
    ) -> tuple[tuple[str, str], ...]:
        """The metadata of a call by that caller."""
        return metadata(self.signer(*permissions, name=name, tenant=tenant, clock=clock).token())
