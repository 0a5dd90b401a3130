"""Makes, lists, revokes and returns signing keys, and issues configurations under them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from meterline.auth.principals import current_principal
from meterline.clock import Clock, to_datetime
from meterline.crypto.sealer import Place, Sealer
from meterline.db.pool import Database
from meterline.errors import FailedPreconditionError, NotFoundError
from meterline.transactions.unit_of_work import UnitOfWork
from meterline_protos.identity.v1 import credentials_pb2

from meterline_identity.credentials.rules import capture_configs
from meterline_identity.credentials.rules.capture_configs import Scope
from meterline_identity.credentials.rules.signing_keys import SigningKey, newest_active, outgoing
from meterline_identity.credentials.store import signing_keys
from meterline_identity.tenants import store as accounts
from meterline_identity.tenants.service import Tenants

_SECRET_BYTES = 32
_SECOND_US = 1_000_000


class SigningKeys:
    """All methods raise NotFoundError for an unknown tenant."""

    def __init__(
        self, database: Database, unit_of_work: UnitOfWork, tenants: Tenants, clock: Clock, sealer: Sealer
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._tenants = tenants
        self._clock = clock
        self._sealer = sealer

    async def rotate(self, slug: str, grace_seconds: int) -> SigningKey:
        """The new key. Raises FailedPreconditionError while two are active."""
        tenant_id = (await self._tenants.get(slug)).tenant_id
        async with self._unit_of_work.begin(tenants=[tenant_id]) as tx:
            # Locks the tenant, so that two concurrent rotations cannot make three keys.
            await accounts.find_for_update(tx.connection, slug)
            keys = await signing_keys.latest(tx.connection, tenant_id)
            now_us = self._clock.now_us()
            replaced = outgoing(keys, now_us, grace_seconds * _SECOND_US)
            if replaced is not None:
                await signing_keys.expire(tx.connection, replaced)
            key_id = secrets.token_hex(8)
            sealed = self._sealer.seal(secrets.token_bytes(_SECRET_BYTES), _place(tenant_id, key_id))
            key = await signing_keys.insert(
                tx.connection, tenant_id, key_id, sealed, current_principal().name, now_us
            )
            await tx.commit()
        return key

    async def latest(self, slug: str) -> list[SigningKey]:
        """The last 100, those that are not revoked first, newer before older."""
        tenant_id = (await self._tenants.get(slug)).tenant_id
        async with self._database.connection(tenants=[tenant_id]) as connection:
            return await signing_keys.latest(connection, tenant_id)

    async def revoke(self, slug: str, key_id: str) -> SigningKey:
        """The revoked key. Its secret is deleted, so nothing can be issued or verified under it again."""
        tenant_id = (await self._tenants.get(slug)).tenant_id
        async with self._unit_of_work.begin(tenants=[tenant_id]) as tx:
            key = await signing_keys.revoke(
                tx.connection, tenant_id, key_id, current_principal().name, self._clock.now_us()
            )
            if key is None:
                raise NotFoundError("signing key", key_id)
            await tx.commit()
        return key

    async def get(self, slug: str, key_ids: Sequence[str]) -> list[tuple[SigningKey, bytes]]:
        """Those of the keys that the tenant has, each with its secret, which is empty for a revoked key."""
        tenant_id = (await self._tenants.get(slug)).tenant_id
        async with self._database.connection(tenants=[tenant_id]) as connection:
            keys = await signing_keys.by_id(connection, tenant_id, key_ids)
        return [(key, self._secret(key)) for key in keys]

    async def issue(self, slug: str, scope: Scope) -> tuple[credentials_pb2.CaptureConfig, bytes, bytes]:
        """A configuration, its bytes, and the secret of its client."""
        keys = await self.latest(slug)
        now_us = self._clock.now_us()
        key = newest_active(keys, now_us)
        if key is None:
            raise FailedPreconditionError(
                "signing keys", "none is active: RotateSigningKey makes one", "NO_SIGNING_KEY"
            )
        end_us = now_us + scope.lifetime_seconds * _SECOND_US
        config = credentials_pb2.CaptureConfig(
            tenant_id=slug, actor=scope.actor, types=scope.types, source=scope.source, key_id=key.key_id
        )
        config.issued_at.FromDatetime(to_datetime(now_us))
        # A configuration cannot outlive its key.
        config.expires_at.FromDatetime(to_datetime(min(end_us, key.expires_at_us or end_us)))
        serialised = config.SerializeToString(deterministic=True)
        return config, serialised, capture_configs.client_secret(self._secret(key), serialised)

    def _secret(self, key: SigningKey) -> bytes:
        return b"" if key.sealed is None else self._sealer.open(key.sealed, _place(key.tenant_id, key.key_id))


def _place(tenant_id: int, key_id: str) -> Place:
    return Place(tenant_id, "signing_keys", "secret", key_id)
