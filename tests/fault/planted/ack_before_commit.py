"""Aggregate that acknowledges messages before their effect is committed: a kill between loses them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from meterline.consuming.consumer import Consumer, Delivery
from meterline_aggregate.main import main

_apply = Consumer._apply


async def _acknowledge_first(self: Consumer, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
    for delivery in deliveries:
        await self._pull.answer(delivery.reply, b"+ACK")
    await self._pull._bus.client.flush()
    return await _apply(self, deliveries)


if __name__ == "__main__":
    Consumer._apply = _acknowledge_first  # type: ignore[method-assign]
    main()
