"""Aggregate that acknowledges messages before it commits their effect: a kill in between loses them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from meterline.consuming.applying import Applying
from meterline.consuming.delivery import Delivery
from meterline_aggregate.main import main

_apply = Applying._apply


async def _acknowledge_first(self: Applying, deliveries: Sequence[Delivery]) -> set[uuid.UUID]:
    for delivery in deliveries:
        await self._answers.acknowledge(delivery)
    await self._answers._pull._bus.client.flush()
    return await _apply(self, deliveries)


if __name__ == "__main__":
    Applying._apply = _acknowledge_first  # type: ignore[method-assign]
    main()
