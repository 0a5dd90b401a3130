"""The double's own clock: real time unless it is moved or frozen.

It governs what belongs to no test clock: how long identifiers and idempotency keys are remembered, and
everything about customers without a test clock. Stripe has no call for it; tests of the 24-hour memory
need one. Webhook signatures and retries keep to real time.
"""

import time

from .store import Store


class OwnClock:
    """Reads are cheap; its offset or frozen time is kept in the store, so it survives a restart."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._offset_ms = self._load("offset_ms") or 0
        self._frozen_ms = self._load("frozen_ms")

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000 + self._offset_ms if self._frozen_ms is None else self._frozen_ms

    def now(self) -> int:
        """Unix time in whole seconds."""
        return self.now_ms() // 1_000

    @property
    def frozen(self) -> bool:
        return self._frozen_ms is not None

    def freeze(self, at_ms: int) -> None:
        """Stop at this instant."""
        self._save(self._offset_ms, at_ms)

    def advance(self, by_ms: int) -> None:
        """Move forward (or back), frozen or not."""
        if self._frozen_ms is None:
            self._save(self._offset_ms + by_ms, None)
        else:
            self._save(self._offset_ms, self._frozen_ms + by_ms)

    def follow_real_time(self) -> None:
        """Forget every shift."""
        self._save(0, None)

    def _load(self, name: str) -> int | None:
        row = self._store.row("SELECT value FROM settings WHERE name = ?", name)
        return None if row is None else row[0]

    def _save(self, offset_ms: int, frozen_ms: int | None) -> None:
        self._offset_ms, self._frozen_ms = offset_ms, frozen_ms
        for name, value in (("offset_ms", offset_ms), ("frozen_ms", frozen_ms)):
            self._store.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value)
