"""Which events are older than the retention horizon."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.capture.rules import horizon
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.columns import UUID_DTYPE, Ids
from meterline_ingest.event.problems import Problems

pytestmark = pytest.mark.req("T1.2", "S7")

HORIZON_US = 1_793_491_200_000_000  # the beginning of November 2026
MILLISECOND = 1_000


def ids_of(*values: uuid.UUID) -> Ids:
    return np.frombuffer(b"".join(value.bytes for value in values), UUID_DTYPE)


def made_at(us: int, rest: int = 0) -> uuid.UUID:
    """A UUIDv7 of that millisecond."""
    return uuid.UUID(int=us // 1_000 << 80 | 0x7 << 76 | 0x2 << 62 | rest)


def refused(event_id: uuid.UUID, sent_us: int) -> str | None:
    problems = Problems(1)
    horizon.refuse_old(ids_of(event_id), np.array([sent_us]), HORIZON_US, problems)
    return problems.by_row[0].reason if problems.by_row else None


moments = st.integers(HORIZON_US - 10**13, HORIZON_US + 10**13) | st.sampled_from(
    [HORIZON_US - 1, HORIZON_US, HORIZON_US - MILLISECOND, HORIZON_US + 1]
)


@settings(deadline=None)
@given(moments, moments, st.integers(0, 2**61))
def test_uuid7_is_dated_by_its_own_time(made_us: int, sent_us: int, rest: int) -> None:
    expected = "ID_TOO_OLD" if made_us // 1_000 * 1_000 < HORIZON_US else None
    assert refused(made_at(made_us, rest), sent_us) == expected


@settings(deadline=None)
@given(st.uuids(version=4) | st.uuids(version=1) | st.uuids(version=5), moments)
def test_other_uuid_is_dated_by_the_sent_time(event_id: uuid.UUID, sent_us: int) -> None:
    assert refused(event_id, sent_us) == ("TIME_TOO_OLD" if sent_us < HORIZON_US else None)


@settings(deadline=None)
@given(st.text(max_size=5), st.text(min_size=1, max_size=35), moments)
def test_id_that_is_no_uuid_never_resembles_a_uuid7(source: str, text: str, sent_us: int) -> None:
    stored = uuid.UUID(bytes=event_ids.digest(source, text))
    assert (stored.version, stored.variant) == (8, uuid.RFC_4122)
    assert refused(stored, sent_us) == ("TIME_TOO_OLD" if sent_us < HORIZON_US else None)


@settings(deadline=None)
@given(st.lists(st.tuples(st.uuids(version=4) | moments.map(made_at), moments), min_size=1, max_size=8))
def test_no_event_is_refused_when_the_oldest_is_within_the_horizon(rows: list[tuple[uuid.UUID, int]]) -> None:
    """Capture relies on this to look up the horizon only for batches with old events."""
    ids, sent_us = ids_of(*(event_id for event_id, _ in rows)), np.array([sent for _, sent in rows])
    problems = Problems(len(rows))
    horizon.refuse_old(ids, sent_us, HORIZON_US, problems)
    assert bool(problems.by_row) == (horizon.oldest_us(ids, sent_us) < HORIZON_US)
