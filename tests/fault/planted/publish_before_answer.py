"""Ingest that answers only after the broker's ack: while the broker is silent, no call is answered."""

from __future__ import annotations

from typing import Any

from meterline.transactions.relay import Relay
from meterline_ingest.capture.rejected import Kept
from meterline_ingest.capture.transaction import Flush, FlushTransaction
from meterline_ingest.main import main

_relays: list[Relay] = []
_init = Relay.__init__
_store = FlushTransaction.store


def _noted(self: Relay, *parts: Any, **settings: Any) -> None:
    _init(self, *parts, **settings)
    _relays.append(self)


async def _publish_first(self: FlushTransaction, flush: Flush) -> Kept:
    kept = await _store(self, flush)
    await _relays[0].publish_pending()
    return kept


if __name__ == "__main__":
    Relay.__init__ = _noted  # type: ignore[method-assign]
    FlushTransaction.store = _publish_first  # type: ignore[method-assign]
    main()
