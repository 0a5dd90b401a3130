"""API keys. Every function works in the caller's transaction; `tenant_id` None is for all tenants."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from meterline.auth.principals import Permission
from meterline.clock import to_datetime, to_us
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_identity.credentials.rules.api_keys import ApiKey

queries = Queries("meterline_identity.credentials.store", "api_keys.sql")


async def insert(connection: Connection, tenant_id: int | None, key: ApiKey, digest: bytes) -> None:
    parameters = {
        "key_id": key.key_id,
        "tenant_id": tenant_id,
        "name": key.name,
        "permissions": sorted(key.permissions),
        "secret_digest": digest,
        "created_at": to_datetime(key.created_at_us),
        "created_by": key.created_by,
    }
    await connection.execute(queries.insert_api_key, parameters)


async def page(
    connection: Connection, tenant_id: int | None, slug: str, after: tuple[datetime, str], limit: int
) -> list[ApiKey]:
    """At most `limit` keys after the one with that sort key."""
    parameters = {"tenant_id": tenant_id, "after": after[0], "after_key": after[1], "limit": limit}
    cursor = await connection.execute(queries.api_keys, parameters, binary=True)
    return [_from_row(slug, row) for row in await cursor.fetchall()]


async def find_valid(connection: Connection, key_id: str) -> tuple[bytes, str, str, list[str]] | None:
    """Digest of the secret, tenant's name, key's name and permissions."""
    cursor = await connection.execute(queries.valid_api_key, (key_id,), binary=True)
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3])


async def revoke(
    connection: Connection, tenant_id: int | None, slug: str, key_id: str, by: str, now_us: int
) -> ApiKey | None:
    """The revoked key; None when the tenant has no such key."""
    parameters = {
        "key_id": key_id,
        "tenant_id": tenant_id,
        "revoked_by": by,
        "now": to_datetime(now_us),
    }
    cursor = await connection.execute(queries.revoke_api_key, parameters, binary=True)
    row = await cursor.fetchone()
    return None if row is None else _from_row(slug, row)


def _from_row(slug: str, row: Sequence[Any]) -> ApiKey:
    key_id, name, permissions, created_at, created_by, revoked_at, revoked_by = row
    return ApiKey(
        key_id,
        slug,
        name,
        frozenset(map(Permission, permissions)),
        to_us(created_at),
        created_by,
        None if revoked_at is None else to_us(revoked_at),
        revoked_by,
    )
