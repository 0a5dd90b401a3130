"""The facts that ingest publishes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from meterline.packing import pack_signed, pack_unsigned
from meterline_protos.common.v1 import types_pb2
from meterline_protos.events.v1 import events_pb2

from meterline_ingest.capture.rules.combinations import Variant, distinct
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.event.columns import Flags, Int64s
from meterline_ingest.event.series import SeriesKey
from meterline_ingest.event_types.rules.book import TypeBook


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """`retracted`: rows at the front that are retracted; `origins`: the batches that had brought them."""

    batch_id: bytes
    rows: int
    trace: types_pb2.TraceContext
    received_at_us: int
    retracted: int = 0
    origins: bytes = b""


def events_accepted(
    checked: Checked,
    accepted: Flags,
    batches: Sequence[BatchHeader],
    types: TypeBook,
) -> bytes:
    """Serialises the accepted rows of `checked` in columns. `batches` cover them in order."""
    columns = checked.columns
    everything = bool(accepted.all())
    rows = slice(None) if everything else np.flatnonzero(accepted)
    series_index = checked.series_index[rows]
    subject_index = columns.subject_index[rows].astype(np.int64)
    times_us = columns.times_us[rows]
    base_us = int(times_us.min())
    series, subjects = checked.series, columns.subjects
    if not everything:
        # Entries that only refused rows used are left out: their tenant may be unknown.
        used, series_index = distinct(series_index, len(series))
        series = [series[at] for at in used.tolist()]
        used, subject_index = distinct(subject_index, len(subjects))
        subjects = [subjects[at] for at in used.tolist()]
    fact = events_pb2.EventsAccepted(
        batches=[
            events_pb2.AcceptedBatch(
                batch_id=batch.batch_id,
                rows=batch.rows,
                trace=batch.trace,
                received_at_us=batch.received_at_us,
                retracted=batch.retracted,
                origins=batch.origins,
            )
            for batch in batches
        ],
        series=[
            events_pb2.Series(
                tenant_id=key.tenant_id,
                event_type=key.event_type,
                dimensions=[events_pb2.Dimension(name=name, value=value) for name, value in key.dimensions],
                for_identity=_is_for_identity(key, types),
            )
            for key in series
        ],
        subjects=subjects,
        event_ids=columns.ids[rows].tobytes(),
        series_index=pack_unsigned(series_index),
        subject_index=pack_unsigned(subject_index),
        times_us=pack_signed(times_us - base_us),
        base_us=base_us,
    )
    fact.quantities.extend(_quantities(checked, rows, series_index, types, series))
    fact.properties.extend(_properties(checked, rows))
    return fact.SerializeToString()


def _quantities(
    checked: Checked,
    rows: slice | Int64s,
    series_index: Int64s,
    types: TypeBook,
    series: Sequence[SeriesKey],
) -> list[events_pb2.QuantityValues]:
    """Storage columns under the names and scales that the rows' types give them, one a name and scale."""
    found = [types.find(key.tenant_id, key.event_type) for key in series]
    # By identity: a type is one object in its book, and comparing its parts would cost more.
    definitions = list({id(each): each for each in found if each is not None}.values())
    at_of = {id(each): at for at, each in enumerate(definitions)}
    type_of_series = np.array([at_of[id(each)] for each in found] or [0])
    merged: dict[tuple[str, int], tuple[Int64s, Flags | None]] = {}
    for type_at, definition in enumerate(definitions):
        mine = None if len(definitions) == 1 else type_of_series[series_index] == type_at
        for at, quantity in enumerate(definition.quantities):
            slot = checked.slots[at]
            if slot is None:
                continue
            units, present = slot.units[rows], _both(slot.present, rows, mine)
            other = merged.get((quantity.name, quantity.scale))
            if other is not None and other[1] is not None and present is not None:
                units, present = np.where(present, units, other[0]), present | other[1]
            merged[quantity.name, quantity.scale] = units, present
    return [
        _column(name, scale, units, present)
        for (name, scale), (units, present) in merged.items()
        if present is None or present.any()
    ]


def _is_for_identity(key: SeriesKey, types: TypeBook) -> bool:
    definition = types.find(key.tenant_id, key.event_type)
    return definition is not None and definition.for_identity


def _properties(checked: Checked, rows: slice | Int64s) -> list[events_pb2.PropertyValues]:
    """Columns of the properties that identity reads: those of its types, without sensitive ones."""
    fields = checked.fields
    wanted = {at: each for at, each in fields.variants.items() if each.definition.for_identity}
    if not wanted:
        return []
    names = sorted({name for each in wanted.values() for name in each.properties})
    return [_property_column(name, wanted, fields.index[rows]) for name in names]


def _property_column(name: str, variants: Mapping[int, Variant], index: Int64s) -> events_pb2.PropertyValues:
    values: dict[str, int] = {}
    codes = np.zeros(max(int(index.max()), *variants) + 1, np.int64)
    for at, variant in variants.items():
        if name in variant.properties:
            codes[at] = values.setdefault(variant.properties[name], len(values) + 1)
    return events_pb2.PropertyValues(name=name, values=values, index=pack_unsigned(codes[index]))


def _both(present: Flags | None, rows: slice | Int64s, mine: Flags | None) -> Flags | None:
    if present is None:
        return mine
    return present[rows] if mine is None else present[rows] & mine


def _column(name: str, scale: int, units: Int64s, present: Flags | None) -> events_pb2.QuantityValues:
    everywhere = present is None or bool(present.all())
    values = units if everywhere else np.where(present, units, 0)  # type: ignore[arg-type]
    return events_pb2.QuantityValues(
        name=name,
        scale=scale,
        units=pack_signed(values),
        present=b"" if everywhere or present is None else present.astype(np.uint8).tobytes(),
    )
