"""A bad release of aggregate that takes one in N good messages for garbled ones; N = 1: all of them."""

from __future__ import annotations

import sys

from meterline_aggregate.folding import consumer
from meterline_aggregate.folding.decoding import Accepted, GarbledError, decode
from meterline_aggregate.main import main

REASON = "a bad release"


def _refuse_some(data: bytes) -> Accepted:
    message = decode(data)
    # The same messages at each delivery.
    if message.key[-1] % int(sys.argv[1]) == 0:
        raise GarbledError(REASON)
    return message


if __name__ == "__main__":
    consumer.decode = _refuse_some  # type: ignore[attr-defined]
    main()
