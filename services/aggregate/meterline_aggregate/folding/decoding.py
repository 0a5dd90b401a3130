"""Decodes EventsAccepted to columns. An inconsistent message is refused whole: it can never be applied."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from meterline.bounds import EARLIEST_US, ID_BYTES, LATEST_US, MAX_SCALE, MIN_TENANT_ID
from meterline.packing import unpack_signed, unpack_unsigned
from meterline.telemetry import traceparent
from meterline_protos.events.v1 import events_pb2

from meterline_aggregate.folding.rules.rows import Batch, Message, Quantity, Series


class GarbledError(ValueError):
    """A message violates its schema; the text says where."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A decoded message: columns are checked, series are not looked up yet.

    retracted: which rows are retracted; None when none are
    origins: for each retracted row the id of the batch that brought it, empty where unknown
    """

    fact: events_pb2.EventsAccepted
    batches: Sequence[Batch]
    series_index: npt.NDArray[np.uint32]
    subject_index: npt.NDArray[np.uint32]
    times_us: npt.NDArray[np.int64]
    quantities: dict[str, Quantity]
    retracted: npt.NDArray[np.bool_] | None
    origins: Sequence[bytes]

    @property
    def key(self) -> bytes:
        """See `key_of`."""
        return key_of([batch.batch_id for batch in self.batches])

    def with_series(self, series: Sequence[Series]) -> Message:
        """The message to fold; `series` are the resolved series of the fact, in its order."""
        return Message(
            self.batches,
            series,
            self.fact.subjects,
            self.series_index,
            self.subject_index,
            self.times_us,
            self.quantities,
            self.retracted,
        )


def key_of(batch_ids: Sequence[bytes]) -> bytes:
    """The key of a message with these batches, the same for all its copies, in 16 bytes. It begins with the
    time of the first batch, so that keys of one time are adjacent in the index."""
    return batch_ids[0][:8] + hashlib.blake2b(b"".join(batch_ids), digest_size=8).digest()


def decode(data: bytes) -> Accepted:
    """Raises GarbledError."""
    try:
        fact = events_pb2.EventsAccepted.FromString(data)
    except DecodeError as error:
        raise GarbledError(f"not an EventsAccepted: {error}") from error
    return read(fact)


def read(fact: events_pb2.EventsAccepted) -> Accepted:
    """Raises GarbledError."""
    rows = len(fact.event_ids) // ID_BYTES
    _require(len(fact.event_ids) == rows * ID_BYTES, "event_ids is not of 16 bytes a row")
    if any(series.tenant_id < MIN_TENANT_ID for series in fact.series):
        raise GarbledError("a series has no tenant")
    times_us = _times(fact, rows)
    batches = _batches(fact, rows)
    retracted, origins = _retractions(fact, rows)
    return Accepted(
        fact,
        batches,
        _index("series_index", fact.series_index, rows, len(fact.series)),
        _index("subject_index", fact.subject_index, rows, len(fact.subjects)),
        times_us,
        _quantities(fact, rows),
        retracted,
        origins,
    )


def _require(condition: object, rule: str) -> None:
    if not condition:
        raise GarbledError(rule)


def _column(name: str, data: bytes, rows: int) -> npt.NDArray[np.int64]:
    try:
        return unpack_signed(data, rows)
    except ValueError as error:
        raise GarbledError(f"{name} is not of {rows} rows") from error


def _times(fact: events_pb2.EventsAccepted, rows: int) -> npt.NDArray[np.int64]:
    offsets = _column("times_us", fact.times_us, rows)
    if rows:
        # Checked in Python's integers before the addition, which could overflow.
        first, last = fact.base_us + int(offsets.min()), fact.base_us + int(offsets.max())
        _require(first >= EARLIEST_US and last < LATEST_US, "a time is out of range")
    return offsets + np.int64(fact.base_us)


def _index(name: str, data: bytes, rows: int, size: int) -> npt.NDArray[np.uint32]:
    try:
        index = unpack_unsigned(data, rows)
    except ValueError as error:
        raise GarbledError(f"{name} is not of {rows} rows") from error
    _require(not rows or index.max() < size, f"{name} points beyond its dictionary")
    return index


def _batches(fact: events_pb2.EventsAccepted, rows: int) -> list[Batch]:
    batches = [
        Batch(batch.batch_id, batch.rows, traceparent.to_text(batch.trace), batch.received_at_us)
        for batch in fact.batches
    ]
    # Bytes of another message type may decode as this type, with no fields set.
    _require(batches, "no batches")
    ids = {batch.batch_id for batch in batches}
    _require(all(len(batch_id) == ID_BYTES for batch_id in ids), "a batch_id is not of 16 bytes")
    _require(len(ids) == len(batches), "a batch occurs twice")
    _require(sum(batch.rows for batch in batches) == rows, "batches do not cover the rows")
    return batches


def _retractions(
    fact: events_pb2.EventsAccepted, rows: int
) -> tuple[npt.NDArray[np.bool_] | None, Sequence[bytes]]:
    """`fact.batches` must cover the rows; see `_batches`."""
    if not any(batch.retracted or batch.origins for batch in fact.batches):
        return None, ()
    retracted = np.zeros(rows, np.bool_)
    origins: list[bytes] = []
    first = 0
    for batch in fact.batches:
        _require(batch.retracted <= batch.rows, "a batch retracts more rows than it has")
        ids = [batch.origins[at : at + ID_BYTES] for at in range(0, len(batch.origins), ID_BYTES)]
        _require(
            not ids or len(batch.origins) == batch.retracted * ID_BYTES,
            "origins is not of 16 bytes a retracted row",
        )
        retracted[first : first + batch.retracted] = True
        origins += ids or [b""] * batch.retracted
        first += batch.rows
    return (retracted, origins) if origins else (None, ())


def _quantities(fact: events_pb2.EventsAccepted, rows: int) -> dict[str, Quantity]:
    quantities = {}
    for column in fact.quantities:
        _require(column.scale <= MAX_SCALE, f"quantity {column.name}: scale above {MAX_SCALE}")
        units = _column(f"quantity {column.name}", column.units, rows)
        present = None
        if column.present:
            _require(len(column.present) == rows, f"presence of {column.name} is not of {rows} rows")
            present = np.frombuffer(column.present, np.uint8) != 0
        quantities[column.name] = Quantity(column.scale, units, present)
    _require(len(quantities) == len(fact.quantities), "a quantity occurs twice")
    return quantities
