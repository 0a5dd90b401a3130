"""Bounds that every consumer of accepted events supports; a service that accepts an event checks them.

An event inside all of them is decoded, folded, stored, queried, announced and billed, in every time zone. One
outside of any cannot be counted and must not be accepted. Capture may be narrower where it has reasons of its
own, never wider.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from meterline.clock import to_us

EARLIEST_US: Final = 0
"""The first event time, inclusive, in microseconds since the Unix epoch: 1970-01-01T00:00:00Z.

Nobody is billed for what was before. The local month that holds it begins up to a month earlier: west of
Greenwich that is December 1969.
"""

LATEST_US: Final = to_us(datetime.fromisoformat("9000-01-01T00:00:00+00:00"))
"""The first event time that is too late, exclusive, in microseconds since the Unix epoch.

Python's and protobuf's calendars end with the year 9999. Well before that, the end of a local month and the
days around it exist in every zone.
"""

MAX_SCALE: Final = 18
"""The most decimals of a quantity: value = units / 10^scale.

10^18 is the greatest power of ten in 64 bits. Rebuilds bring all values of a quantity to this scale in order
to compare them.
"""

MIN_UNITS: Final = -(1 << 63)
"""The least units of a quantity, inclusive: columns of messages are of signed 64 bits."""

MAX_UNITS: Final = (1 << 63) - 1
"""The greatest units of a quantity, inclusive. Sums may be wider: they are kept as numerics, exactly."""

MIN_TENANT_ID: Final = 1
"""The least number of a tenant. A message that leaves the number out has 0."""

ID_BYTES: Final = 16
"""The length of a batch's and of an event's id."""

MAX_VALUE_DIGITS: Final = 40
"""The most digits of a window's value before its point, and after it, that publisher bills.

It holds whatever the other bounds let happen: 2^63 events of the greatest units have fewer than 39 digits
before the point, and at most MAX_SCALE after it.
"""
