"""Signing keys. Every function works in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_identity.credentials.rules.signing_keys import SigningKey

queries = Queries("meterline_identity.credentials.store", "signing_keys.sql")


async def insert(
    connection: Connection, tenant_id: int, key_id: str, sealed: bytes, by: str, now_us: int
) -> SigningKey:
    """Adds the tenant's newest key. The caller has locked the tenant against concurrent additions."""
    parameters = {
        "tenant_id": tenant_id,
        "key_id": key_id,
        "sealed": sealed,
        "created_by": by,
        "now": to_datetime(now_us),
    }
    cursor = await connection.execute(queries.insert_signing_key, parameters, binary=True)
    (row,) = await cursor.fetchall()
    return _from_row(row)


async def latest(connection: Connection, tenant_id: int) -> list[SigningKey]:
    """The last 100 of a tenant, those that are not revoked first, all active ones among them."""
    cursor = await connection.execute(queries.signing_keys, (tenant_id,), binary=True)
    return [_from_row(row) for row in await cursor.fetchall()]


async def by_id(connection: Connection, tenant_id: int, key_ids: Sequence[str]) -> list[SigningKey]:
    """Those of the keys that the tenant has."""
    cursor = await connection.execute(queries.signing_keys_by_id, (tenant_id, list(key_ids)), binary=True)
    return [_from_row(row) for row in await cursor.fetchall()]


async def expire(connection: Connection, key: SigningKey) -> None:
    """Stores when a key expires."""
    assert key.expires_at_us is not None
    parameters = {
        "tenant_id": key.tenant_id,
        "generation": key.generation,
        "expires_at": to_datetime(key.expires_at_us),
    }
    await connection.execute(queries.expire_signing_key, parameters)


async def revoke(
    connection: Connection, tenant_id: int, key_id: str, by: str, now_us: int
) -> SigningKey | None:
    """The revoked key, without its secret; None when the tenant has no such key."""
    parameters = {"tenant_id": tenant_id, "key_id": key_id, "revoked_by": by, "now": to_datetime(now_us)}
    cursor = await connection.execute(queries.revoke_signing_key, parameters, binary=True)
    row = await cursor.fetchone()
    return None if row is None else _from_row(row)


def _from_row(row: Sequence[Any]) -> SigningKey:
    tenant_id, generation, key_id, sealed, created_at, created_by, expires_at, revoked_at, revoked_by = row
    return SigningKey(
        tenant_id,
        generation,
        key_id,
        sealed,
        to_us(created_at),
        created_by,
        None if expires_at is None else to_us(expires_at),
        None if revoked_at is None else to_us(revoked_at),
        revoked_by,
    )
