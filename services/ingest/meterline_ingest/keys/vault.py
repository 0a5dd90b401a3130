"""Keyrings of tenants: cached for a moment, else from the database, else new."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from meterline.crypto.envelope import new_secret
from meterline.crypto.master_keys import MasterKeys
from meterline.db.pool import Connection
from meterline.remembered.answers import Answers
from meterline.tasks import every

from meterline_ingest.keys.keyring import Keyring, Sealed
from meterline_ingest.keys.rules import FINGERPRINT_KEY, FIRST_KEY, Purpose, WrappedKey
from meterline_ingest.keys.store import SETTLING, DataKeys, KeyName

# For this long a replica may not notice that a key was rotated or destroyed.
MEMORY_SECONDS: Final = 2.0
REMEMBERED_TENANTS: Final = 10_000


class Vault:
    """One for each process. Unwrapped keys are in its memory only, and no longer than `ttl`."""

    def __init__(
        self,
        keys: DataKeys,
        masters: MasterKeys,
        *,
        ttl: float = MEMORY_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        ttl: seconds; at most half of the time after which a new key seals
        timer: returns seconds since any fixed moment
        """
        if ttl > SETTLING.total_seconds() / 2:
            raise ValueError("a key would seal before every replica knows of it")
        self._keys = keys
        self.masters = masters
        self._known: Answers[int, Keyring] = Answers(ttl, most=REMEMBERED_TENANTS, now=timer)
        # Otherwise an expired entry would stay in memory until the next lookup.
        self._expiring = every(ttl / 2, "forget-keys", self.expire)
        self._sealed = Sealed()

    async def start(self) -> None:
        await self._expiring.start()

    async def stop(self) -> None:
        await self._expiring.stop()
        self._known.clear()

    async def keyring(self, connection: Connection | None, tenant_id: int, *, create: bool = True) -> Keyring:
        """A tenant's keys.

        connection: reads through it, in a transaction of the tenant; a caller that holds one must pass it,
            since no second one may be free
        create: makes the first keys of a tenant that has none, and commits them at once, in a separate
            transaction: a sealed value must never outlive its key.
        """
        known = self._known.get(tenant_id)
        if known is not None:
            return known
        return (await self._load([tenant_id], connection, create))[tenant_id]

    async def keyrings(self, tenant_ids: Collection[int], *, create: bool = True) -> dict[int, Keyring]:
        """As `keyring`, for all of `tenant_ids`: one query for those that are not cached."""
        found = self._known.get_many(tenant_ids)
        missing = sorted(set(tenant_ids) - found.keys())
        return found | await self._load(missing, None, create) if missing else found

    def forget(self, tenant_id: int) -> None:
        self._known.forget(tenant_id)

    async def expire(self) -> None:
        """Removes expired keyrings from memory."""
        self._known.expire()

    def new_key(self, tenant_id: int, key_id: int, purpose: Purpose) -> WrappedKey:
        """A random key, wrapped."""
        wrapped = self.masters.wrap(new_secret(), tenant_id, key_id, purpose)
        return WrappedKey(tenant_id, key_id, purpose, wrapped, self.masters.current_id, settled=False)

    def first_keys(self, tenant_id: int) -> list[WrappedKey]:
        """The first keys of a tenant."""
        return [
            self.new_key(tenant_id, FINGERPRINT_KEY, Purpose.FINGERPRINTS),
            self.new_key(tenant_id, FIRST_KEY, Purpose.SEALING),
        ]

    def take_sealed(self) -> Mapping[KeyName, int]:
        """How many values this process sealed under each key since the last call."""
        taken = dict(self._sealed)
        self._sealed.clear()
        return taken

    def put_back(self, sealed: Mapping[KeyName, int]) -> None:
        """Adds counts back that were taken but could not be stored."""
        self._sealed.update(sealed)

    async def _load(
        self, tenant_ids: Collection[int], connection: Connection | None, create: bool
    ) -> dict[int, Keyring]:
        question = self._known.ask()
        keys = await self._keys.load(list(tenant_ids), connection)
        missing = [each for each in tenant_ids if each not in keys]
        if missing and create:
            await self._keys.add_first([key for each in missing for key in self.first_keys(each)])
            # Another process may have added its keys first, so the stored ones are used.
            keys |= await self._keys.load(missing)
        keyrings = {
            each: Keyring(each, keys.get(each, ()), self.masters, self._sealed) for each in tenant_ids
        }
        # The absence of keys is never cached: a tenant's first key seals at once.
        for each, keyring in keyrings.items():
            if keyring.exists:
                self._known.keep(question, each, keyring)
        return keyrings
