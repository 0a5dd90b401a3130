"""The verdict of the demo finds and names every difference, also of one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from meterline_dev.demo import verdict
from meterline_dev.demo.capture import Captured, Refusal
from meterline_dev.demo.explained import Explained
from meterline_dev.demo.months import Month
from meterline_dev.demo.oracle import Cell, Expected
from meterline_dev.demo.quarantine_fix import QuarantineFix
from meterline_dev.demo.sums import Conservation
from meterline_dev.demo.verdict import Stages, Verdict
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2
from meterline_protos.publisher.v1 import invoices_pb2

SEPTEMBER = Month(2026, 9)
TRACE = types_pb2.TraceContext(trace_id="ab" * 16, span_id="cd" * 8)


def cells(origin: str = "") -> dict[Cell, Decimal]:
    values = {"departures": 3, "air_minutes": 600, "miles": 4_000, "aircraft": 2}
    return {("UA", 2026, 9, meter, origin): Decimal(value) for meter, value in values.items()}


def cells_before() -> dict[Cell, Decimal]:
    values = {"departures": 2, "air_minutes": 600, "miles": 3_000, "aircraft": 2}
    return {("UA", 2026, 9, meter, ""): Decimal(value) for meter, value in values.items()}


def stamp(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found


def an_invoice() -> invoices_pb2.Invoice:
    return invoices_pb2.Invoice(
        tenant_id="ua",
        period_start=stamp(SEPTEMBER.start),
        period_end=stamp(SEPTEMBER.end),
        state=invoices_pb2.INVOICE_STATE_FINALIZED,
        total="12.30",
        external_total="12.3",
        external_invoice_id="in_1",
        lines=[a_line()],
    )


def a_line() -> invoices_pb2.InvoiceLine:
    return invoices_pb2.InvoiceLine(
        line_id="line", meter="departures", quantity="3", event_count=3, trace=TRACE
    )


def an_explanation() -> Explained:
    batch = invoices_pb2.ExplainedBatch(batch=events_pb2.Batch(batch_id="b", trace=TRACE))
    use = invoices_pb2.EventUse(meter="departures", line=a_line())
    return Explained(
        an_invoice(),
        a_line(),
        windows=[invoices_pb2.ExplainedWindow(event_count=count) for count in (1, 2)],
        publications=[invoices_pb2.Publication(value=value) for value in ("4", "-1")],
        batches={"b": batch},
        events=[events_pb2.StoredEvent(event_id=name, batch_id="b") for name in ("e1", "e2", "e3")],
        back=invoices_pb2.ExplainEventResponse(uses=[use]),
    )


@dataclass
class World:
    """All results of a correct demo; each test falsifies some of them."""

    expected: Expected = field(
        default_factory=lambda: Expected(5, 2, 1, Counter({"UA": 3}), cells() | cells("EWR"))
    )
    captured: Captured = field(
        default_factory=lambda: Captured(
            read=5,
            accepted=1,
            duplicate=1,
            rejected=3,
            refusals=Counter({Refusal("A", "subject", ""): 2, Refusal("B", "quantities.air_minutes", ""): 1}),
        )
    )
    fix: QuarantineFix = field(
        default_factory=lambda: QuarantineFix(
            replayed=1, left=2, before=cells_before(), after=cells(), due=cells_before() | cells("EWR")
        )
    )
    accepted: dict[str, int] = field(default_factory=lambda: {"UA": 3})
    aggregated: dict[str, int] = field(default_factory=lambda: {"UA": 3})
    usage: dict[Cell, Decimal] = field(default_factory=lambda: cells() | cells("EWR"))
    lines: dict[Cell, Decimal] = field(default_factory=cells)
    stripe: dict[Cell, Decimal] = field(default_factory=cells)
    invoice: invoices_pb2.Invoice = field(default_factory=an_invoice)
    at_stripe: tuple[str, Decimal] = ("open", Decimal("12.30"))
    explained: Explained | None = field(default_factory=an_explanation)

    def judge(self) -> Verdict:
        return verdict.judge(
            self.expected,
            self.captured,
            self.fix,
            Conservation(self.accepted, self.aggregated),
            Stages(self.expected.sums, self.usage, self.lines, self.stripe),
            {("ua", SEPTEMBER): self.invoice},
            {"in_1": self.at_stripe},
            self.explained,
        )


def failed(found: Verdict) -> list[str]:
    return [check.name for check in found.checks if not check.holds]


@pytest.mark.req("T3.5", "X2")
def test_correct_results_pass() -> None:
    found = World().judge()
    assert found.holds
    assert found.sums_agree
    assert (found.lost, found.doubled, failed(found)) == (0, 0, [])
    assert verdict.differences(found) == []


@pytest.mark.req("T3.5", "X2")
@pytest.mark.parametrize("stage", ["usage", "lines", "stripe"])
@given(data=st.data(), off=st.integers(-3, 3).filter(bool))
def test_wrong_sum_is_found(stage: str, data: st.DataObject, off: int) -> None:
    world = World()
    sums: dict[Cell, Decimal] = getattr(world, stage)
    cell = data.draw(st.sampled_from(sorted(sums)))
    sums[cell] += off
    found = world.judge()
    assert len(failed(found)) == 1
    assert not found.sums_agree
    assert not found.holds
    assert f"{sums[cell]:,}" in verdict.differences(found)[0]
    if cell[3] == "departures" and not cell[4]:
        assert (found.lost, found.doubled) == (max(0, -off), max(0, off))


@pytest.mark.req("T3.5", "X2")
@pytest.mark.parametrize("stage", ["usage", "lines", "stripe"])
def test_missing_or_extra_sum_is_found(stage: str) -> None:
    less, more = World(), World()
    getattr(less, stage).pop(("UA", 2026, 9, "miles", ""))
    getattr(more, stage)["UA", 2026, 10, "miles", ""] = Decimal(1)
    assert not less.judge().sums_agree
    assert not more.judge().sums_agree


@pytest.mark.req("X2")
@pytest.mark.parametrize("stage", ["accepted", "aggregated"])
@pytest.mark.parametrize(
    ("count", "lost", "doubled"), [({}, 3, 0), ({"UA": 2}, 1, 0), ({"UA": 5, "DL": 1}, 0, 3)]
)
def test_lost_and_duplicated_events_are_counted(
    stage: str, count: dict[str, int], lost: int, doubled: int
) -> None:
    world = World()
    setattr(world, stage, count)
    found = world.judge()
    assert (found.lost, found.doubled) == (lost, doubled)
    assert not found.holds


@pytest.mark.req("X2")
def test_errors_of_two_tenants_do_not_cancel_out() -> None:
    world = World(aggregated={"UA": 2, "DL": 1})
    found = world.judge()
    assert (found.lost, found.doubled) == (1, 1)


@pytest.mark.req("O10", "X2")
@pytest.mark.parametrize(
    "spoil",
    [{"read": 4}, {"accepted": 0}, {"rejected": 2}, {"conflict": 1, "accepted": 0}, {"refusals": Counter()}],
    ids=str,
)
def test_event_without_an_outcome_is_found(spoil: dict[str, object]) -> None:
    world = World()
    for name, value in spoil.items():
        setattr(world.captured, name, value)
    assert failed(world.judge()) == ["outcomes of capture"]


@pytest.mark.req("O2", "X2")
@pytest.mark.parametrize(("field_name", "value"), [("replayed", 0), ("replayed", 2), ("left", 1)])
def test_incomplete_replay_is_found(field_name: str, value: int) -> None:
    world = World()
    setattr(world.fix, field_name, value)
    assert "outcomes of capture" in failed(world.judge())


@pytest.mark.req("O2", "T3.5")
@given(data=st.data(), off=st.integers(-3, 3).filter(bool))
@pytest.mark.parametrize("when", ["before", "after"])
def test_invoice_changed_unexpectedly_by_a_replay_is_found(when: str, data: st.DataObject, off: int) -> None:
    world = World()
    quantities: dict[Cell, Decimal] = getattr(world.fix, when)
    quantities[data.draw(st.sampled_from(sorted(quantities)))] += off
    assert failed(world.judge()) == [f"invoices {when} the replay"]


@pytest.mark.req("T3.5")
def test_wrong_invoice_is_found() -> None:
    name = "final invoices, to the cent"
    assert failed(World(at_stripe=("open", Decimal("12.31"))).judge()) == [name]
    assert failed(World(at_stripe=("draft", Decimal("12.30"))).judge()) == [name]
    for field_name, value in (
        ("total", "12.31"),
        ("external_total", "12.31"),
        ("external_invoice_id", "in_2"),
    ):
        world = World()
        setattr(world.invoice, field_name, value)
        assert failed(world.judge()) == [name]
    for state in (invoices_pb2.INVOICE_STATE_DISPUTED, invoices_pb2.INVOICE_STATE_OPEN):
        world = World()
        world.invoice.state = state
        assert failed(world.judge()) == [name]


@pytest.mark.req("X1")
def test_explanation_that_does_not_add_up_is_found() -> None:
    assert failed(World(explained=None).judge()) == ["one line, explained"]

    def faults(explained: Explained) -> int:
        assert failed(World(explained=explained).judge()) == ["one line, explained"]
        return len(explained.faults())

    fewer = an_explanation()
    fewer.events.pop()
    assert faults(fewer) == 1
    twice = an_explanation()
    twice.events[1] = twice.events[0]
    assert faults(twice) == 1
    windows = an_explanation()
    windows.windows = windows.windows[:1]
    assert faults(windows) == 1
    untraced = an_explanation()
    untraced.batches["b"].batch.trace.Clear()
    assert faults(untraced) == 1
    unsent = an_explanation()
    unsent.publications = ()
    assert faults(unsent) == 1
    elsewhere = an_explanation()
    elsewhere.back = invoices_pb2.ExplainEventResponse()
    assert faults(elsewhere) == 1


@pytest.mark.req("T3.5")
def test_long_list_of_differences_is_shortened() -> None:
    world = World()
    world.usage |= {("DL", 2026, 9, "miles", f"X{number}"): Decimal(1) for number in range(50)}
    listed = verdict.differences(world.judge())
    assert len(listed) == 21
    assert listed[-1] == "and 30 more"


@pytest.mark.req("T2.2")
def test_months_continue_across_the_year() -> None:
    december = Month(2026, 12)
    assert december.end == december.next.start == datetime(2027, 1, 1, 5, tzinfo=UTC)
    assert (december.next.title, december.start) == ("Jan 2027", datetime(2026, 12, 1, 5, tzinfo=UTC))
