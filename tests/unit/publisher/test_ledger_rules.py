"""Rules of the ledger: sent differences, event times within the period, and retries of old rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.calendar import Period
from meterline_publisher.invoices.rules import Line
from meterline_publisher.ledger.rules import ledger
from meterline_publisher.ledger.rules.ledger import Finding, Refusal
from meterline_publisher.ledger.rules.publications import Publication, PublicationState
from meterline_publisher.providers.stripe.capabilities import STRIPE

pytestmark = pytest.mark.req("S6", "S9")

MARCH = Period(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
wholes = st.integers(-(10**14), 10**14).map(Decimal)
moments = st.timedeltas(timedelta(0), timedelta(days=150)).map(lambda since: JANUARY + since)


def row(value: Decimal, state: PublicationState, revision: int = 1) -> Publication:
    return Publication(
        tenant_id=1,
        identifier=f"r{revision}",
        seq=revision,
        invoice_id=UUID(int=1),
        calculation_id=UUID(int=2),
        meter="calls",
        period_start=MARCH.start,
        period_end=MARCH.end,
        revision=revision,
        value=value,
        event_name="calls",
        customer_id="cus",
        event_at=MARCH.start,
        key_generation=0,
        state=state.value,
        attempts=0,
        first_attempt_at=None,
        next_attempt_at=MARCH.start,
        sent_at=None,
        error_code="",
        trace="",
        provider="stripe",
    )


@given(st.lists(st.tuples(wholes, st.sampled_from(PublicationState)), max_size=8), wholes)
def test_differences_add_up_to_the_last_target(
    history: list[tuple[Decimal, PublicationState]], last: Decimal
) -> None:
    """The rows that were not rejected add up to the target, whichever rows were rejected."""
    rows: list[Publication] = []
    for target, outcome in [*history, (last, PublicationState.SENT)]:
        missing = ledger.difference(target, rows, STRIPE, retry_rejected=True)
        if missing is not None:
            rows.append(row(missing, outcome, len(rows) + 1))
    held = sum((one.value for one in rows if one.state != PublicationState.REJECTED), Decimal(0))
    assert held == last
    assert ledger.difference(last, rows, STRIPE, retry_rejected=True) is None


# The target of a meter and its event name. Without an event name nothing is sent.
states = st.dictionaries(
    st.sampled_from(["calls", "more"]), st.tuples(st.sampled_from(["old", "new", ""]), wholes), max_size=2
)


@given(st.lists(states, max_size=6), states)
def test_sums_follow_the_event_name(
    history: list[dict[str, tuple[str, Decimal]]], last: dict[str, tuple[str, Decimal]]
) -> None:
    """After any sequence of renames the latest event names hold all usage, and the earlier names none."""
    rows: list[Publication] = []
    for state in [*history, last]:
        lines = [line(meter, name, value) for meter, (name, value) in state.items()]
        for target in ledger.targets(lines, rows):
            mine = [one for one in rows if (one.meter, one.event_name) == (target.meter, target.event_name)]
            missing = ledger.difference(target.value, mine, STRIPE, retry_rejected=False)
            if missing is not None:
                sent = row(missing, PublicationState.SENT, len(rows) + 1)
                rows.append(replace(sent, meter=target.meter, event_name=target.event_name))
    held: dict[tuple[str, str], Decimal] = {}
    for one in rows:
        key = one.meter, one.event_name
        held[key] = held.get(key, Decimal(0)) + one.value
    wanted = {(meter, name): value for meter, (name, value) in last.items() if name}
    assert {key: value for key, value in held.items() if value} == {
        key: value for key, value in wanted.items() if value
    }


def line(meter: str, event_name: str, value: Decimal) -> Line:
    return Line(
        tenant_id=1,
        invoice_id=UUID(int=1),
        line_id=UUID(int=3),
        meter=meter,
        description="",
        quantity=value,
        amount=value,
        exact_amount="",
        provider_amount=value,
        price_version=1,
        price_digest="",
        steps=[],
        calculation_id=UUID(int=2),
        inputs_digest="",
        usage_value=value,
        usage_revision=1,
        event_count=1,
        billing_event_name=event_name,
        billing_scale=0,
        billing_target=value if event_name else None,
        trace="",
    )


def test_rejected_row_is_retried_only_on_request() -> None:
    rejected = [row(Decimal(5), PublicationState.REJECTED)]
    assert ledger.difference(Decimal(5), rejected, STRIPE, retry_rejected=False) is None
    assert ledger.difference(Decimal(5), rejected, STRIPE, retry_rejected=True) == 5
    assert ledger.difference(Decimal(6), rejected, STRIPE, retry_rejected=False) == 6
    unsendable = [row(Decimal("5.5"), PublicationState.REJECTED)]
    assert ledger.difference(Decimal("5.5"), unsendable, STRIPE, retry_rejected=True) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.5", Refusal.NOT_WHOLE),
        ("-0.5", Refusal.NOT_WHOLE),
        ("5.0", None),
        ("999999999999999", None),
        ("-999999999999999", None),
        ("1000000000000000", Refusal.TOO_MANY_DIGITS),
    ],
)
def test_only_integers_of_at_most_fifteen_digits_are_sent(value: str, expected: Refusal | None) -> None:
    assert ledger.refusal(Decimal(value), STRIPE) is expected


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9), st.integers(0, 9))
def test_scaling_is_exact(value: Decimal, scale: int) -> None:
    assert ledger.unscaled(ledger.scaled(value, scale), scale) == value


@given(moments)
def test_event_time_lies_in_its_period_and_not_in_the_future(now: datetime) -> None:
    found = ledger.event_time(MARCH, now, STRIPE)
    assert found in MARCH
    assert found.microsecond == 0
    assert found <= MARCH.end - STRIPE.period_edge
    if now >= MARCH.start:
        assert found <= now


@pytest.mark.parametrize(
    ("age", "expected"), [(None, False), (0, False), (23 * 3600 - 1, False), (23 * 3600, True)]
)
def test_identifier_deduplicates_for_less_than_a_day(age: int | None, expected: bool) -> None:
    now = MARCH.end
    first = None if age is None else now - timedelta(seconds=age)
    assert ledger.must_look_up(first, now, STRIPE) is expected
    assert timedelta(hours=24) > STRIPE.identifier_memory


@given(wholes, wholes.filter(bool), wholes)
def test_provider_sum_shows_whether_a_row_arrived(sent: Decimal, value: Decimal, other: Decimal) -> None:
    assert ledger.find(sent, value, sent + value, STRIPE) is Finding.ARRIVED
    assert ledger.find(sent, value, sent, STRIPE) is Finding.ABSENT
    if other not in (sent, sent + value):
        assert ledger.find(sent, value, other, STRIPE) is Finding.UNCLEAR


def test_sums_are_compared_within_float_precision() -> None:
    exact = Decimal(2**53 + 1)
    assert ledger.agrees(exact, Decimal(float(exact)), STRIPE)
    assert not ledger.agrees(exact, Decimal(float(exact)) + 2, STRIPE)
    assert not ledger.agrees(Decimal(2**53 - 2), Decimal(2**53 - 1), STRIPE)


def test_new_generation_has_a_new_key_and_the_same_event() -> None:
    first = row(Decimal(1), PublicationState.PENDING)
    assert first.idempotency_key == "meterline:r1"
    later = Publication(**{name: getattr(first, name) for name in first.__slots__} | {"key_generation": 2})
    assert (later.idempotency_key, later.identifier) == ("meterline:r1#2", "r1")
