"""Upkeep of keys: counts what they seal, rotates them in time, and wraps them by the current master key."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from meterline.errors import MeterlineError, TamperedError, UnavailableError
from meterline.tasks import every
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger

from meterline_ingest.audit.rules import SERVICE, ChangeRequest
from meterline_ingest.keys.rotation import KeyStore, rotate
from meterline_ingest.keys.rules import WrappedKey
from meterline_ingest.keys.store import KeyName

log = logger()

# Random nonces are safe for 2^32 values of one key. The rest is for values that a killed process had not
# counted, and for those sealed until every replica has the next key.
MOST_SEALED: Final = 1 << 30
# Bounds of one run, and of one transaction of it.
ROTATIONS: Final = 100
PAGE: Final = 500


class KeyUpkeep:
    """Replicas may run it concurrently. `start` and `stop` may be called twice."""

    def __init__(
        self,
        store: KeyStore,
        *,
        seconds: float,
        max_age: timedelta,
        most_sealed: int = MOST_SEALED,
    ) -> None:
        self._store = store
        self._masters = store.vault.masters
        self._max_age = max_age
        self._most_sealed = most_sealed
        self._loop = every(seconds, "key-upkeep", self.run)

    async def start(self) -> None:
        await self._loop.start()

    async def stop(self) -> None:
        """Stores the counts of values sealed since the last run."""
        await self._loop.stop()
        try:
            await self.count()
        except MeterlineError as error:
            log.warning("keys.not_counted", error=str(error))

    async def run(self) -> None:
        for tenant_id, key_id in await self.count():
            await self._rotate(tenant_id, key_id, f"sealed {self._most_sealed} values")
        for tenant_id, key_id in await self._store.keys.aged(self._max_age, ROTATIONS):
            await self._rotate(tenant_id, key_id, f"older than {self._max_age / timedelta(days=1):g} days")
        await self.rewrap()

    async def count(self) -> list[KeyName]:
        """Stores how much this process sealed; returns the current keys that have sealed enough."""
        vault = self._store.vault
        sealed = vault.take_sealed()
        if not sealed:
            return []
        try:
            spent = await self._store.keys.add_sealed(sealed, self._most_sealed)
        except BaseException:
            # Counting twice does no harm, not counting does.
            vault.put_back(sealed)
            raise
        metrics.SEALED_VALUES.inc(sum(sealed.values()))
        return spent

    async def rewrap(self) -> int:
        """Wraps keys of earlier master keys by the current one; returns how many it could not."""
        after, failed = (0, -1), 0
        while page := await self._store.keys.of_other_masters(self._masters.current_id, after, PAGE):
            after = page[-1].tenant_id, page[-1].key_id
            rewrapped = [(key, wrapped) for key in page if (wrapped := self._rewrapped(key)) is not None]
            failed += len(page) - len(rewrapped)
            if rewrapped:
                count = await self._store.keys.rewrap(rewrapped, self._masters.current_id)
                log.info("keys.rewrapped", keys=count, master_key_id=self._masters.current_id)
                for tenant_id in {key.tenant_id for key, _ in rewrapped}:
                    self._store.vault.forget(tenant_id)
        metrics.KEYS_NOT_REWRAPPED.set(failed)
        return failed

    async def _rotate(self, tenant_id: int, key_id: int, reason: str) -> None:
        await rotate(self._store, tenant_id, key_id, ChangeRequest(SERVICE, reason))
        log.info("key.rotated", tenant_id=tenant_id, key_id=key_id, reason=reason)

    def _rewrapped(self, key: WrappedKey) -> bytes | None:
        """Logs a key that cannot be unwrapped, and returns None, so that the others are still rewrapped."""
        assert key.wrapped is not None
        name = (key.tenant_id, key.key_id, key.purpose)
        try:
            secret = self._masters.unwrap(key.wrapped, key.master_key_id, *name)
        except (TamperedError, UnavailableError) as error:
            log.error("key.not_rewrapped", tenant_id=key.tenant_id, key_id=key.key_id, error=str(error))
            return None
        return self._masters.wrap(secret, *name)
