"""Recording refuses misuse immediately with field and rule, and keeps all fields of an event."""

import tracemalloc
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.events import to_event
from meterline_client.recording import Recorder

from tests.support.client import NOON, ManualClock

PLAIN: dict[str, Any] = {
    "event_type": "flight.departed",
    "subject": "N14228",
    "time": None,
    "dimensions": None,
    "quantities": None,
    "event_id": None,
    "tenant_id": None,
}


def recorder(tenant_id: str = "acme") -> Recorder:
    return Recorder(tenant_id, ManualClock(), None)


class Carrier(StrEnum):
    UNITED = "UA"


@pytest.mark.req("T1.1")
@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"event_type": 5}, TypeError, "type: must be a string, not int"),
        ({"event_type": ["a"]}, TypeError, "type: must be a string, not list"),
        ({"event_type": ""}, ValueError, "type: must be 1 to 64 letters"),
        ({"event_type": "ö"}, ValueError, "type: must be 1 to 64 letters"),
        ({"event_type": "a" * 65}, ValueError, "type: must be 1 to 64 letters"),
        ({"event_type": "a\n"}, ValueError, "type: must be 1 to 64 letters"),
        ({"subject": None}, TypeError, "subject: must be a string, not NoneType"),
        ({"subject": "x" * 257}, ValueError, "subject: must have at most 256 characters"),
        ({"subject": "a\0b"}, ValueError, "subject: must not contain the character NUL"),
        ({"subject": "\ud800"}, ValueError, "subject: must be valid Unicode"),
        ({"time": "2026-01-01"}, TypeError, "time: must be a datetime, not str"),
        ({"time": datetime(2026, 1, 1)}, ValueError, "time: must be aware"),  # noqa: DTZ001
        ({"dimensions": [("a", "b")]}, TypeError, "dimensions: must be a mapping, not list"),
        ({"dimensions": {"a": 5}}, TypeError, r"dimensions\.a: must be a string, not int"),
        ({"dimensions": {"a": ["b"]}}, TypeError, r"dimensions\.a: must be a string, not list"),
        ({"dimensions": {5: "a"}}, TypeError, "dimensions: a name: must be a string"),
        ({"dimensions": {"": "a"}}, ValueError, "dimensions: a name must not be empty"),
        ({"dimensions": {"a": "x" * 257}}, ValueError, r"dimensions\.a: must have at most 256"),
        ({"properties": {"a": 5}}, TypeError, r"properties\.a: must be a string, not int"),
        ({"properties": {"": "a"}}, ValueError, "properties: a name must not be empty"),
        ({"properties": {"a": "x" * 4_097}}, ValueError, r"properties\.a: must have at most 4096"),
        ({"properties": dict.fromkeys(map(str, range(33)), "x")}, ValueError, "properties: at most 32"),
        ({"dimensions": dict.fromkeys(map(str, range(17)), "x")}, ValueError, "dimensions: at most 16"),
        ({"quantities": {"miles": 1.5}}, TypeError, r"quantities\.miles: must be int or decimal\.Decimal"),
        ({"quantities": {"miles": True}}, TypeError, r"quantities\.miles: must be int or decimal\.Decimal"),
        ({"quantities": {"miles": "5"}}, TypeError, r"quantities\.miles: must be int or decimal\.Decimal"),
        ({"quantities": {"miles": 10**18}}, ValueError, r"quantities\.miles: must have at most 18 digits"),
        ({"quantities": {"miles": Decimal("NaN")}}, ValueError, r"quantities\.miles: must be a finite"),
        ({"quantities": {5: 5}}, TypeError, "quantities: a name: must be a string"),
        ({"quantities": dict.fromkeys("abcde", 1)}, ValueError, "quantities: at most 4"),
        ({"quantities": [5]}, TypeError, "quantities: must be a mapping, not list"),
        ({"event_id": ""}, ValueError, "event_id: must not be empty"),
        ({"event_id": 5}, TypeError, "event_id: must be a string, not int"),
        ({"event_id": "x" * 129}, ValueError, "event_id: must have at most 128 characters"),
        ({"tenant_id": ""}, ValueError, "tenant_id: needed"),
        ({"tenant_id": "Acme"}, ValueError, "tenant_id: must be 1 to 63 lower-case letters"),
        ({"tenant_id": 5}, TypeError, "tenant_id: must be a string, not int"),
    ],
)
def test_misuse_raises_with_field_and_rule(
    fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    one = recorder()

    # Twice: the cache filled by the first call must not let the second one pass.
    for _ in range(2):
        with pytest.raises(error, match=f"^{message}"):
            one.row(**PLAIN | fields)


@pytest.mark.req("T1.1")
def test_tenant_is_required_in_the_call_or_the_client() -> None:
    with pytest.raises(ValueError, match=r"^tenant_id: needed"):
        recorder("").row(**PLAIN)


@pytest.mark.req("T1.1")
def test_generated_ids_are_unique_ordered_uuids() -> None:
    one = recorder()
    texts = [one.row(**PLAIN)[0] for _ in range(1_000)]

    assert len(set(texts)) == 1_000
    assert sorted(texts) == texts
    assert {uuid.UUID(text).version for text in texts} == {7}


@pytest.mark.req("T1.1", "T1.2")
@settings(deadline=None)
@given(st.uuids())
def test_all_spellings_of_a_uuid_are_one_id(value: uuid.UUID) -> None:
    one = recorder()
    forms = [value, str(value), str(value).upper()]

    results = [one.row(**PLAIN | {"event_id": form}) for form in forms]

    assert {text for text, _, _ in results} == {str(value)}
    assert {row[0] for _, row, _ in results} == {value.bytes}


@pytest.mark.req("T1.2")
@pytest.mark.parametrize("text", ["order-17", "0" * 32, "{" + str(uuid.UUID(int=5)) + "}", "ü" * 128])
def test_id_that_is_no_uuid_is_kept_unchanged(text: str) -> None:
    given_id, row, _ = recorder().row(**PLAIN | {"event_id": text})

    assert given_id == row[0] == text


@pytest.mark.req("T1.1")
def test_event_keeps_all_recorded_fields() -> None:
    zone = timezone(timedelta(hours=-5))
    text, row, _ = recorder().row(
        "flight.departed",
        "N14228",
        datetime(2026, 1, 1, 7, 30, 0, 1, tzinfo=zone),
        {"origin": "JFK", "carrier": Carrier.UNITED},
        {"miles": 1400, "air_minutes": Decimal("227.50")},
        None,
        "other-1",
    )

    event = to_event(row)

    assert event.id == text
    assert (event.tenant_id, event.type, event.subject) == ("other-1", "flight.departed", "N14228")
    assert event.time == datetime(2026, 1, 1, 12, 30, 0, 1, tzinfo=UTC)
    assert event.dimensions == {"origin": "JFK", "carrier": "UA"}
    assert event.quantities == {"miles": Decimal(1400), "air_minutes": Decimal("227.5")}


@pytest.mark.req("T1.1")
def test_default_time_is_now() -> None:
    assert to_event(recorder().row(**PLAIN)[1]).time == NOON


@pytest.mark.req("T1.1")
def test_later_changes_by_the_caller_do_not_affect_the_event() -> None:
    one = recorder()
    dimensions, quantities = {"origin": "JFK"}, {"miles": 5}
    _, first, _ = one.row(**PLAIN | {"dimensions": dimensions, "quantities": quantities})

    dimensions["origin"], quantities["miles"] = "LGA", 6
    _, second, _ = one.row(**PLAIN | {"dimensions": dimensions, "quantities": quantities})

    assert to_event(first).dimensions == {"origin": "JFK"}
    assert to_event(first).quantities == {"miles": 5}
    assert to_event(second).dimensions == {"origin": "LGA"}


@pytest.mark.req("T1.3")
def test_dimensions_are_independent_of_order() -> None:
    one = recorder()

    sets = {
        one.row(**PLAIN | {"dimensions": given})[1][4]
        for given in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    }

    assert len(sets) == 1


@pytest.mark.req("T7.1")
def test_recorder_caches_are_bounded() -> None:
    one = recorder()

    for number in range(10_000):
        one.row(f"t{number}", "s", None, {"d": str(number)}, {f"q{number}": number}, None, f"t-{number}")

    remembered = (one._types, one._tenants, one._names, one._dimension_sets)
    assert all(0 < len(cache) <= 4_096 for cache in remembered)


@pytest.mark.req("T7.1")
def test_weight_grows_with_event_size() -> None:
    one = recorder()
    light = one.row(**PLAIN)[2]

    heavy = one.row(**PLAIN | {"subject": "ü" * 256, "dimensions": {str(n): "x" * 256 for n in range(16)}})[2]

    assert heavy > light + 512 + 16 * 256


@pytest.mark.req("T7.1")
@pytest.mark.parametrize("heavy", [False, True])
def test_weight_approximates_memory_use(heavy: bool) -> None:
    one = recorder()
    tracemalloc.start()
    weight, kept = 0, []
    for number in range(5_000):
        dimensions = {f"k{n}": f"value {number} {n}" for n in range(8)} if heavy else None
        fields = {"subject": f"subject {number}", "quantities": {"miles": 1_400}, "dimensions": dimensions}
        _, row, own = one.row(**PLAIN | fields)
        kept.append(row)
        weight += own
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 0.8 < taken / weight < 1.25
