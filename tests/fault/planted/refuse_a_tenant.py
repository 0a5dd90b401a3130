"""A release of aggregate that cannot decode messages with events of one tenant, given by its number.

With `whole` it does not split messages, so that calls of others in the same message are buried too; with
`forgetful` it treats a resent message as a duplicate, although parts of it are buried.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

from meterline.consuming import dead_letters
from meterline_aggregate import main as wiring
from meterline_aggregate.folding import consumer
from meterline_aggregate.folding.decoding import Accepted, GarbledError, decode

REASON = "a tenant that this release does not understand"


def _refuse(data: bytes) -> Accepted:
    found = decode(data)
    if any(series.tenant_id == int(sys.argv[1]) for series in found.fact.series):
        raise GarbledError(REASON)
    return found


async def _none_open(*_: Any) -> dict[uuid.UUID, list[uuid.UUID]]:
    return {}


if __name__ == "__main__":
    consumer.decode = _refuse  # type: ignore[attr-defined]
    if "whole" in sys.argv:
        wiring.split = lambda delivery: ()  # type: ignore[attr-defined]
    if "forgetful" in sys.argv:
        dead_letters.open_of = _none_open  # type: ignore[assignment]
    wiring.main()
