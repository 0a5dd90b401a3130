"""Callers for tests about authentication: keys, tokens, and settings that demand them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from meterline.auth.principals import GRANTABLE, Permission
from meterline.auth.tokens import ServiceSigner, new_private_key, public_key_of
from meterline.clock import Clock, SystemClock
from meterline_dev.channels import metadata
from pydantic import SecretStr


@dataclass(frozen=True)
class Authority:
    """One key pair, and whatever it signs."""

    private: str = field(default_factory=new_private_key, repr=False)

    @property
    def settings(self) -> dict[str, object]:
        """Over `settings_for`: calls need a token of this authority, or an API key."""
        return {
            "authentication": "required",
            "service_key": SecretStr(self.private),
            "service_public_keys": public_key_of(self.private),
        }

    def signer(
        self,
        *permissions: Permission,
        name: str = "tester",
        tenant: str | None = None,
        clock: Clock | None = None,
        lifetime_seconds: int = 300,
    ) -> ServiceSigner:
        """For all that can be granted unless told otherwise."""
        granted: Collection[Permission] = permissions or GRANTABLE
        return ServiceSigner(
            name,
            self.private,
            granted,
            clock or SystemClock(),
            tenant=tenant,
            lifetime_seconds=lifetime_seconds,
        )

    def metadata(
        self, *permissions: Permission, tenant: str | None = None, clock: Clock | None = None
    ) -> tuple[tuple[str, str], ...]:
        """What a call carries to be that caller's."""
        return metadata(self.signer(*permissions, tenant=tenant, clock=clock).token())
