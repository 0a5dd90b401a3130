"""Aggregate that treats all messages of a batch as poison when one of them is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from meterline.consuming import applying
from meterline.consuming.delivery import Delivery
from meterline_aggregate.main import main


def _all_of_them(deliveries: Sequence[Delivery], error: Exception) -> frozenset[uuid.UUID]:
    return frozenset(delivery.message_id for delivery in deliveries)


if __name__ == "__main__":
    applying.at_fault = _all_of_them  # type: ignore[attr-defined]
    main()
