"""Aggregate of a bad release: it takes good messages for garbled ones, one in so many, or all of them (1)."""

from __future__ import annotations

import sys

from meterline_aggregate.folding import consumer
from meterline_aggregate.folding.decoding import Accepted, GarbledError, decode
from meterline_aggregate.main import main

REASON = "a bad release"


def _refuse_some(data: bytes) -> Accepted:
    message = decode(data)
    # The same ones whenever they come.
    if message.key[-1] % int(sys.argv[1]) == 0:
        raise GarbledError(REASON)
    return message


if __name__ == "__main__":
    consumer.decode = _refuse_some  # type: ignore[attr-defined]
    main()
