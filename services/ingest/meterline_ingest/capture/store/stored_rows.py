"""What is stored under many ids, as arrays: no Python object an event."""

from __future__ import annotations

import uuid
from typing import Final

import numpy as np
import numpy.typing as npt
from meterline.db import arrays
from meterline.db.arrays import POSTGRES_EPOCH_US
from meterline.db.pool import Connection
from meterline.db.queries import Queries

from meterline_ingest.event.columns import Flags, Ids, Int64s

queries = Queries("meterline_ingest.capture.store", "stored_rows.sql")

_FIELDS: Final = (
    ("event_id", "V16"),
    ("tenant_id", ">i4"),
    ("subject_id", ">i8"),
    ("series_id", ">i4"),
    ("occurred_at", ">i8"),
    ("skew_us", ">i8"),
    ("quantity_1", ">i8"),
    ("quantity_2", ">i8"),
    ("quantity_3", ">i8"),
    ("quantity_4", ">i8"),
    ("flags", ">i4"),
    ("body_digest", "V16"),
)
_QUANTITIES: Final = ("quantity_1", "quantity_2", "quantity_3", "quantity_4")
_NO_BATCH: Final = 16
_DETAILED: Final = 32


def _record() -> np.dtype[np.void]:
    """A record as `record_send` writes it: the count of fields, then type, length and value of each."""
    fields: list[tuple[str, str]] = [("count", ">i4")]
    for name, dtype in _FIELDS:
        fields += [(f"{name}_type", ">i4"), (f"{name}_length", ">i4"), (name, dtype)]
    return np.dtype(fields)


_RECORD: Final = _record()


def _keys(ids: Ids, tenant_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bytes_]:
    """Ids and tenants as texts of one width, which numpy can sort. It ignores zeros at the end of a text,
    which makes no difference at one width."""
    keys = np.empty(len(ids), [("id", "V16"), ("tenant", ">i4")])
    keys["id"], keys["tenant"] = ids, tenant_ids
    return keys.view("S20")


class StoredRows:
    """Events that are stored, in the order of their keys: arrays of one length.

    sent_us: the times as they were sent, in microseconds since the Unix epoch, if the row has neither details
        nor an unknown batch
    units: a row of MAX_QUANTITIES for each event, 0 where the value is missing
    missing: of each event, one bit a quantity, set where the value is missing
    detailed: events whose row does not hold all that was sent; `digests` has those of their bodies
    batch_unknown: events of a batch that is being stored
    """

    def __init__(self, records: npt.NDArray[np.void]) -> None:
        keys = _keys(records["event_id"], records["tenant_id"])
        order = np.argsort(keys)
        self._keys, records = keys[order], records[order]
        self.subject_ids: Int64s = records["subject_id"].astype(np.int64)
        self.series_ids: Int64s = records["series_id"].astype(np.int64)
        self.sent_us: Int64s = records["occurred_at"].astype(np.int64) + POSTGRES_EPOCH_US
        self.sent_us -= records["skew_us"].astype(np.int64)
        self.units: Int64s = np.stack([records[name].astype(np.int64) for name in _QUANTITIES], axis=1)
        flags = records["flags"]
        self.missing: Int64s = (flags & (_NO_BATCH - 1)).astype(np.int64)
        self.batch_unknown: Flags = (flags & _NO_BATCH) != 0
        self.detailed: Flags = (flags & _DETAILED) != 0
        self.digests: Ids = records["body_digest"]

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, ids: Ids, tenant_ids: Int64s) -> Int64s:
        """Where each event is among these, -1 for those that are not."""
        if not len(self):
            return np.full(len(ids), -1)
        keys = _keys(ids, tenant_ids)
        places = np.searchsorted(self._keys, keys)
        places[places == len(self)] = 0
        return np.where(self._keys[places] == keys, places, -1)


NOTHING: Final = StoredRows(np.zeros(0, _RECORD))


async def stored_rows(connection: Connection, ids: Ids, tenant_ids: Int64s) -> StoredRows:
    """The events under these ids, as this transaction sees them."""
    if not len(ids):
        return NOTHING
    first, last = _bounds(ids)
    keys = arrays.uuid_array(ids), arrays.int4_array(np.unique(tenant_ids))
    cursor = await connection.execute(queries.stored_rows, (*keys, first, last), binary=True)
    ((records,),) = await cursor.fetchall()
    return NOTHING if records is None else StoredRows(np.frombuffer(records, _RECORD))


def _bounds(ids: Ids) -> tuple[uuid.UUID, uuid.UUID]:
    """Of all that begin with the same 8 bytes as the least and the greatest of `ids`."""
    fronts = np.ascontiguousarray(ids).view(">u8")[::2]
    return uuid.UUID(int=int(fronts.min()) << 64), uuid.UUID(int=(int(fronts.max()) << 64) | ((1 << 64) - 1))
