"""Digests of single events' bodies, and the details that are stored outside their rows in `events`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
from meterline.tasks import Pace

from meterline_ingest.capture.rules.combinations import Variant
from meterline_ingest.capture.rules.skew import Corrected
from meterline_ingest.capture.rules.validation import Checked
from meterline_ingest.capture.store.details import SEALED, TABLE, Detail, StoredBody
from meterline_ingest.event.columns import Flags, Int64s
from meterline_ingest.event.digest import Fingerprints, body_digest, disguised
from meterline_ingest.event_types.rules.book import TypeBook


class Sealer(Fingerprints, Protocol):
    """The keys of one tenant; `shredded` after they were destroyed."""

    @property
    def shredded(self) -> bool: ...

    def seal(self, table: str, column: str, row: bytes, plaintext: bytes) -> bytes: ...

    def unseal(self, table: str, column: str, row: bytes, sealed: bytes) -> bytes: ...


class Keyrings(Protocol):
    """The source of tenants' keys."""

    async def keyrings(self, tenant_ids: Collection[int]) -> Mapping[int, Sealer]: ...


def to_text(sensitive: Mapping[str, str]) -> bytes:
    """The text of an event's sensitive properties, which is sealed."""
    return json.dumps(sensitive, ensure_ascii=False, sort_keys=True).encode()


class Contents:
    """Works row by row, so use it only for the rows that need it."""

    def __init__(
        self,
        checked: Checked,
        corrected: Corrected,
        types: TypeBook,
        sealers: Mapping[int, Sealer],
        flags: Mapping[int, Sequence[str]],
    ) -> None:
        """`flags`: flags to store with single rows."""
        self._checked = checked
        self._corrected = corrected
        self._types = types
        self._sealers = sealers
        self._flags = flags

    def sent_us(self, rows: Int64s) -> Int64s:
        """The times of `rows` as they were sent."""
        return self._corrected.sent_us[rows]

    def have_details(self) -> Flags:
        """The rows of which `events` holds less than what was sent."""
        fields, cut = self._checked.fields, self._corrected.cut
        if fields.variants:
            found: Flags = np.isin(fields.index, list(fields.variants))
        else:
            found = np.zeros(len(self._corrected.sent_us), np.bool_)
        if cut is not None:
            found |= cut
        found[list(self._flags)] = True
        return found

    async def details(self, accepted: Flags) -> list[Detail]:
        """The details of the accepted rows that have any."""
        found, pace = [], Pace()
        for row in self._detailed(accepted):
            if pace.due:
                await pace.rest()
            found.append(self._detail(row))
        return found

    def digest(self, row: int) -> bytes:
        """The digest of the body as it was sent."""
        variant, series = self._variant(row), self._checked.series[self._checked.series_index[row]]
        units = [
            None if slot is None or not (slot.present is None or slot.present[row]) else int(slot.units[row])
            for slot in self._checked.slots
        ]
        return body_digest(
            series.event_type,
            self._checked.columns.subjects[self._checked.columns.subject_index[row]],
            int(self._corrected.sent_us[row]),
            series.dimensions if variant is None else variant.sent_dimensions,
            self._quantities(series.tenant_id, series.event_type, units),
            [] if variant is None else self._disguised(series.tenant_id, variant),
        )

    def digest_of_row(self, tenant_id: int, stored: StoredBody, sent_us: int) -> bytes:
        """The digest of a stored event whose row in `events` holds all that was sent."""
        return body_digest(
            stored.event_type,
            stored.subject,
            sent_us,
            tuple(stored.dimensions.items()),
            self._quantities(tenant_id, stored.event_type, stored.units),
        )

    def _detailed(self, accepted: Flags) -> Sequence[int]:
        if not self._checked.fields.variants and self._corrected.cut is None and not self._flags:
            return []
        rows: list[int] = np.flatnonzero(self.have_details() & accepted).tolist()
        return rows

    def _detail(self, row: int) -> Detail:
        columns, variant = self._checked.columns, self._variant(row)
        event_id = columns.ids[row].tobytes()
        tenant_id = int(self._checked.tenant_ids[columns.tenant_index[row]])
        detail = Detail(event_id, tenant_id, self.digest(row))
        if self._is_cut(row):
            detail.sent_us = int(self._corrected.sent_us[row])
        if variant is not None:
            detail.properties, detail.flags, detail.sources = (
                variant.properties,
                variant.flags,
                variant.sources,
            )
            if variant.sensitive:
                text = to_text(variant.sensitive)
                detail.sealed_names = sorted(variant.sensitive)
                detail.sealed = self._sealers[tenant_id].seal(TABLE, SEALED, event_id, text)
        detail.flags = (*detail.flags, *self._flags.get(row, ()))
        return detail

    def _is_cut(self, row: int) -> bool:
        return self._corrected.cut is not None and bool(self._corrected.cut[row])

    def _variant(self, row: int) -> Variant | None:
        return self._checked.fields.variants.get(int(self._checked.fields.index[row]))

    def _quantities(self, tenant_id: int, event_type: str, units: Sequence[int | None]) -> dict[str, int]:
        definition = self._types.find(tenant_id, event_type)
        names = () if definition is None else definition.quantities
        return {
            quantity.name: value for quantity, value in zip(names, units, strict=False) if value is not None
        }

    def _disguised(self, tenant_id: int, variant: Variant) -> list[tuple[str, str | None, str]]:
        return disguised(variant.sent_properties, variant.definition.sensitive, self._sealers.get(tenant_id))
