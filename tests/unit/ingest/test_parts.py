"""Small rules of capture, each against a simple implementation or by hand."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import FailedPreconditionError, InvalidArgumentError
from meterline_ingest.capture.rules.combinations import distinct
from meterline_ingest.capture.store.recently_seen import RecentlySeen
from meterline_ingest.dictionaries.memory import TwoGenerations
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.columns import UUID_DTYPE
from meterline_ingest.event_types.rules.types import Dimension, EventType, Quantity

ids = st.one_of(st.uuids().map(str), st.text(min_size=1, max_size=40), st.just("-" * 36))


@given(st.lists(ids, max_size=20))
@pytest.mark.req("T1.2")
def test_batch_of_ids_is_parsed_like_single_ids(texts: list[str]) -> None:
    parsed, kept = event_ids.parse("src", texts)
    alone = [event_ids.parse_one("src", text) for text in texts]
    assert [raw.tobytes() for raw in parsed] == [raw for raw, _ in alone]
    assert [text is None for text in kept or [None] * len(texts)] == [is_uuid for _, is_uuid in alone]


@pytest.mark.req("T1.2")
def test_uuids_are_global_and_other_ids_belong_to_their_source() -> None:
    text = str(uuid.uuid4())
    assert event_ids.parse_one("a", text) == event_ids.parse_one("b", text.upper())
    assert event_ids.digest("a", "bc") != event_ids.digest("ab", "c")


@pytest.mark.parametrize(
    "text",
    [
        "20261129-083900-1234-5678-9012345678",
        "2026112-9083900-1234-5678-9012345678",
        "0123456789abcdef0123456789abcdef",
        "{01234567-89ab-cdef-0123-456789abcdef}",
        "urn:uuid:01234567-89ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcde ",
        "01234567-89ab-cdef-0123-456789abcd\n\n",
        "0123456_-89ab-cdef-0123-456789abcdef",
        "+1234567-89ab-cdef-0123-456789abcdef",
        "٠١٢٣٤٥٦٧-89ab-cdef-0123-456789abcdef",
        "\0" * 36,
    ],
)
@pytest.mark.req("T1.2")
def test_malformed_uuid_belongs_to_its_source(text: str) -> None:
    assert event_ids.parse_one("a", text) == (event_ids.digest("a", text), False)
    assert event_ids.parse_one("a", text) != event_ids.parse_one("b", text)
    for batch in ([text], [text, str(uuid.uuid4())]):
        parsed, kept = event_ids.parse("a", batch)
        assert parsed[0].tobytes() == event_ids.digest("a", text)
        assert kept is not None
        assert kept[0] == text


@given(st.binary(min_size=16, max_size=16), st.integers(1, 2**31 - 1), st.integers(2, 5))
@pytest.mark.req("T1.2")
def test_repeated_id_in_a_batch_is_found_after_its_first_row(raw: bytes, tenant: int, times: int) -> None:
    suspects, repeated = RecentlySeen(10).add(
        np.frombuffer(raw * times, UUID_DTYPE), np.full(times, tenant, np.int64)
    )
    assert repeated.tolist() == [False] + [True] * (times - 1)
    assert not suspects.any()


@given(st.lists(st.integers(0, 40)), st.sampled_from([41, 10_000]))
def test_distinct_equals_numpy_unique(values: list[int], bound: int) -> None:
    array = np.array(values, np.int64)
    codes, index = distinct(array, bound)
    assert codes.tolist() == sorted(set(values))
    assert codes[index].tolist() == values


@pytest.mark.req("T2.4")
def test_dictionary_cache_is_bounded_in_entries() -> None:
    memory: TwoGenerations[int, int] = TwoGenerations(10, lambda _: 1)
    for number in range(1, 100):
        memory.put(number, number)
        assert memory.get_many([number, -1]) == [number, None]
    assert memory.get_many(range(1, 100)).count(None) >= 99 - 20


@pytest.mark.req("T2.4")
@given(st.lists(st.integers(1, 30), max_size=200))
def test_dictionary_cache_is_bounded_in_bytes(sizes: list[int]) -> None:
    memory: TwoGenerations[tuple[int, int], int] = TwoGenerations(100, lambda key: key[1])
    for number, size in enumerate(sizes):
        for _ in range(2):
            # A repeated entry takes no further space.
            memory.put((number, size), number)
        held = sum(size for _, size in memory._young) + sum(size for _, size in memory._old)
        assert held <= 2 * (100 + max(sizes))
        assert memory.get_many([(number, size)]) == [number]


units = Quantity("units", 2, False, False)


@pytest.mark.parametrize(
    "other",
    [
        (Quantity("units", 3, False, False),),
        (Quantity("more", 0, False, False), units),
        (),
    ],
)
@pytest.mark.req("T3.4")
def test_existing_fields_of_a_type_are_immutable(other: tuple[Quantity, ...]) -> None:
    known = EventType("t", (units,), (Dimension("d", False),), False)
    with pytest.raises(FailedPreconditionError):
        known.grown_to(EventType("t", other, (Dimension("d", False),), False))
    with pytest.raises(FailedPreconditionError):
        known.grown_to(EventType("t", (units,), (), False))


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 65, "ü"])
def test_type_names_are_validated(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        EventType(name, (), (), False)
