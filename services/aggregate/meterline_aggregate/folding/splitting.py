"""Splits a message of accepted events into one message per batch.

Each batch is one caller's call, so an error in one says nothing about the others. A part contains only what
its own rows need: the error may be in dictionary entries or columns of quantities that only other batches
use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from meterline.bounds import ID_BYTES
from meterline.consuming.delivery import Delivery
from meterline.consuming.parts import part_of
from meterline.packing import pack_unsigned, unpack_signed, unpack_unsigned
from meterline_protos.events.v1 import events_pb2

from meterline_aggregate.folding.decoding import key_of

WHOLE_KEY: Final = "Meterline-Whole-Key"
"""The header of a part with the key of the whole message, in hexadecimal."""


def split(delivery: Delivery) -> Sequence[Delivery]:
    """The batches of a message. Empty when they cannot be separated: the bytes are no EventsAccepted, columns
    differ in length, batches do not cover the rows, or ids of batches are missing or repeated."""
    try:
        fact = events_pb2.EventsAccepted.FromString(delivery.data)
    except DecodeError:
        return ()
    ids = [batch.batch_id for batch in fact.batches]
    rows = sum(batch.rows for batch in fact.batches)
    if not ids or len(set(ids)) != len(ids) or any(len(batch_id) != ID_BYTES for batch_id in ids):
        return ()
    try:
        columns = _Columns(fact, rows)
    except ValueError:
        return ()
    headers = {WHOLE_KEY: key_of(ids).hex()}
    parts, first = [], 0
    for at, batch in enumerate(fact.batches):
        data = columns.batch(at, first, batch.rows).SerializeToString()
        parts.append(part_of(delivery, batch.batch_id, data, headers))
        first += batch.rows
    return parts


class _Columns:
    """The columns of a message; raises ValueError when one does not have `rows` rows."""

    def __init__(self, fact: events_pb2.EventsAccepted, rows: int) -> None:
        if len(fact.event_ids) != rows * ID_BYTES:
            raise ValueError("event_ids")
        self._fact = fact
        self._rows = rows
        self._series = unpack_unsigned(fact.series_index, rows)
        self._subjects = unpack_unsigned(fact.subject_index, rows)
        unpack_signed(fact.times_us, rows)
        for column in fact.quantities:
            unpack_signed(column.units, rows)
            if column.present and len(column.present) != rows:
                raise ValueError("present")
        self._properties = [unpack_unsigned(column.index, rows) for column in fact.properties]

    def batch(self, at: int, first: int, rows: int) -> events_pb2.EventsAccepted:
        fact, here = self._fact, slice(first, first + rows)
        series, series_index = _used(fact.series, self._series[here])
        subjects, subject_index = _used(fact.subjects, self._subjects[here])
        part = events_pb2.EventsAccepted(
            batches=[fact.batches[at]],
            series=series,
            subjects=subjects,
            event_ids=self._cut(fact.event_ids, here),
            series_index=pack_unsigned(series_index),
            subject_index=pack_unsigned(subject_index),
            times_us=self._cut(fact.times_us, here),
            base_us=fact.base_us,
        )
        for column in fact.quantities:
            present = self._cut(column.present, here)
            if present and not any(present):
                continue
            part.quantities.add(
                name=column.name, scale=column.scale, units=self._cut(column.units, here), present=present
            )
        for properties, index in zip(fact.properties, self._properties, strict=True):
            # 0 marks rows without a value and must stay 0: appending it ensures that it occurs, as the least.
            values, codes = _used(["", *properties.values], np.append(index[here], np.uint32(0)))
            if values[1:]:
                part.properties.add(name=properties.name, values=values[1:], index=pack_unsigned(codes[:-1]))
        return part

    def _cut(self, column: bytes, here: slice) -> bytes:
        """The bytes of these rows; their width stays that of the whole column."""
        width = len(column) // self._rows if self._rows else 0
        return column[here.start * width : here.stop * width]


def _used(dictionary: Sequence[Any], index: npt.NDArray[np.uint32]) -> tuple[list[Any], npt.NDArray[np.intp]]:
    """The entries that rows point to, and the rows' new positions among them. Positions beyond the dictionary
    stay beyond it."""
    used, positions = np.unique(index, return_inverse=True)
    return [dictionary[at] for at in used.tolist() if at < len(dictionary)], positions
