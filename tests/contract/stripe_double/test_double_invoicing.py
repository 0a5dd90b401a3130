"""Draft invoices and their finalisation: which usage they bill, and that final invoices never change."""

from decimal import Decimal

import pytest
import stripe
from meterline_dev.stripe_double import ControlClient, DoubleSettings, running_double

from tests.contract.stripe_double.lab import CONTROL_KEY, DAY, Lab, instant, period

START = instant("2026-03-01T00:00:00")
END = instant("2026-04-01T00:00:00")
HOUR = 3_600


@pytest.mark.req("S9")
def test_period_becomes_a_draft_and_final_an_hour_later(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock, email="billing@example.org")
    price = lab.price(meter, unit_amount_decimal="2.5")
    subscription = lab.subscribe(customer, price, metadata={"tenant": "t-1"})
    assert period(subscription) == (START, END)
    lab.send(meter, customer, 10, at=START)
    assert lab.invoices(subscription.id) == []

    lab.advance(clock, END)
    draft = lab.invoice(subscription.id)
    assert (draft.status, draft.created, draft.automatically_finalizes_at) == ("draft", END, END + HOUR)
    assert (draft.period_start, draft.period_end, draft.billing_reason) == (START, END, "subscription_cycle")
    assert (draft.customer, draft.customer_email) == (customer, "billing@example.org")
    (line,) = draft.lines.data
    assert (line.amount, line.quantity, line.quantity_decimal) == (25, 10, Decimal(10))
    assert (line.period.start, line.period.end) == (START, END)
    assert line.pricing is not None
    assert line.pricing.price_details is not None
    assert line.pricing.price_details.price == price.id
    assert line.parent is not None
    assert line.parent.subscription_item_details is not None
    assert line.parent.subscription_item_details.subscription_item == subscription["items"].data[0].id

    lab.advance(clock, END + HOUR - 1)
    assert lab.invoice(subscription.id).status == "draft"
    lab.advance(clock, END + HOUR)
    final = lab.api.v1.invoices.retrieve(draft.id)
    assert (final.status, final.total, final.amount_due) == ("open", 25, 25)
    assert final.status_transitions.finalized_at == END + HOUR
    assert final.number is not None
    assert [entry.id for entry in final.lines.data] == [line.id]
    assert final.parent is not None
    assert final.parent.subscription_details is not None
    assert final.parent.subscription_details.metadata is not None
    assert final.parent.subscription_details.metadata.to_dict() == {"tenant": "t-1"}
    moved = lab.api.v1.subscriptions.retrieve(subscription.id)
    assert (period(moved), moved.latest_invoice) == ((END, instant("2026-05-01T00:00:00")), draft.id)


@pytest.mark.req("S9", "T1.5")
def test_usage_counts_until_the_draft_is_finalised(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter))
    lab.send(meter, customer, 1, at=START)
    lab.advance(clock, END + HOUR - 1)
    lab.send(meter, customer, 10, at=END - 1)
    lab.send(meter, customer, 100, at=END)
    lab.send(meter, customer, 1_000, at=START - 1)
    assert lab.invoice(subscription.id).total == 11
    lab.advance(clock, END + HOUR)
    lab.send(meter, customer, 10_000, at=END - 1)
    lab.api.v1.billing.meter_event_adjustments.create(
        {
            "event_name": meter.event_name,
            "type": "cancel",
            "cancel": {"identifier": lab.control.meter_events(customer)[0]["identifier"]},
        }
    )
    assert lab.invoice(subscription.id).total == 11
    # The next period has only its own usage: none rolls over.
    lab.advance(clock, instant("2026-05-01T00:00:00"))
    assert [invoice.total for invoice in lab.invoices(subscription.id)] == [11, 100]
    assert lab.total(meter, customer, START, END) == 10_010


@pytest.mark.req("S9")
def test_cancellation_counts_while_the_invoice_is_a_draft(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter))
    lab.send(meter, customer, 5, at=START, identifier=(identifier := lab.name("id")))
    lab.advance(clock, END)
    assert lab.invoice(subscription.id).total == 5
    lab.api.v1.billing.meter_event_adjustments.create(
        {"event_name": meter.event_name, "type": "cancel", "cancel": {"identifier": identifier}}
    )
    lab.advance(clock, END + HOUR)
    final = lab.invoice(subscription.id)
    assert (final.total, final.status) == (0, "paid")


@pytest.mark.req("T3.4")
def test_negative_total_is_billed_as_zero(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter))
    lab.send(meter, customer, 5, at=START)
    lab.send(meter, customer, -8, at=START)
    lab.advance(clock, END + HOUR)
    (line,) = lab.invoice(subscription.id).lines.data
    assert (line.quantity, line.amount) == (0, 0)


@pytest.mark.req("T3.5")
def test_quantities_beyond_float_precision_are_billed_exactly(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter))
    for _ in range(10):
        lab.send(meter, customer, 10**15 - 1, at=START)
    lab.send(meter, customer, 1, at=START)
    lab.advance(clock, END)
    exact = 10 * (10**15 - 1) + 1
    assert exact > 2**53
    assert lab.invoice(subscription.id).total == exact


@pytest.mark.req("S9")
def test_invoice_can_be_finalised_manually_once(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter))
    lab.send(meter, customer, 7, at=START)
    lab.advance(clock, END + 60)
    draft = lab.invoice(subscription.id)
    final = lab.api.v1.invoices.finalize_invoice(draft.id)
    assert (final.status, final.total, final.status_transitions.finalized_at) == ("open", 7, END + 60)
    lab.send(meter, customer, 1, at=END - 1)
    with pytest.raises(stripe.InvalidRequestError, match="Only a draft"):
        lab.api.v1.invoices.finalize_invoice(draft.id)
    lab.advance(clock, END + 2 * HOUR)
    assert lab.invoice(subscription.id).to_dict() == final.to_dict()


@pytest.mark.req("T5.2", "S9")
def test_preview_shows_the_current_period_and_stores_nothing(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(meter, unit_amount=3))
    lab.send(meter, customer, 4, at=START)
    preview = lab.api.v1.invoices.create_preview({"customer": customer, "subscription": subscription.id})
    assert (preview.total, preview.status, preview.billing_reason) == (12, "draft", "upcoming")
    assert (preview.period_start, preview.period_end) == (START, END)
    assert lab.invoices(subscription.id) == []
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.invoices.create_preview({"customer": lab.customer(), "subscription": subscription.id})
    assert error.value.param == "customer"


@pytest.mark.req("T3.5")
def test_more_than_ten_lines_are_paged(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, *(lab.price(meter, unit_amount=n) for n in range(12)))
    lab.send(meter, customer, 1, at=START)
    lab.advance(clock, END)
    invoice = lab.invoice(subscription.id)
    assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
    assert [line.amount for line in invoice.lines.auto_paging_iter()] == list(range(12))
    assert invoice.total == sum(range(12))


@pytest.mark.req("T3.5")
def test_invoices_are_listed_by_customer_subscription_and_status(lab: Lab) -> None:
    clock, meter = lab.clock(START), lab.meter()
    customer, other = lab.customer(clock), lab.customer(clock)
    price = lab.price(meter)
    first, second = lab.subscribe(customer, price), lab.subscribe(other, price)
    lab.send(meter, customer, 1, at=START)
    lab.advance(clock, instant("2026-05-01T00:00:00"))

    def ids(**params: object) -> list[str]:
        return [invoice.id for invoice in lab.api.v1.invoices.list(params).data]  # type: ignore[arg-type]

    of_first = ids(subscription=first.id)
    assert len(of_first) == 2
    assert ids(customer=customer) == of_first
    assert set(ids(customer=other)) == set(ids(subscription=second.id))
    assert ids(customer=customer, status="draft") == of_first[:1]
    assert ids(customer=customer, status="open") == of_first[1:]
    assert ids(customer=other, status="paid", limit=1) == ids(customer=other)[1:]


@pytest.mark.req("S9")
def test_invoice_numbers_increase_for_each_customer(lab: Lab) -> None:
    clock = lab.clock(START)
    customer = lab.customer(clock)
    subscription = lab.subscribe(customer, lab.price(lab.meter()))
    lab.advance(clock, END)
    lab.advance(clock, END + 32 * DAY)
    numbers = [invoice.number or "" for invoice in lab.invoices(subscription.id)]
    assert [number.rpartition("-")[2] for number in numbers] == ["0001", "0002"]
    assert len({number.rpartition("-")[0] for number in numbers}) == 1


@pytest.mark.req("S9")
@pytest.mark.parametrize("finalize_after", [0, 72 * HOUR])
def test_grace_period_is_configurable(finalize_after: int) -> None:
    settings = DoubleSettings(control_key=CONTROL_KEY, finalize_after=finalize_after)
    with running_double(settings=settings) as double, ControlClient(double.address, CONTROL_KEY) as control:
        lab = Lab(double.address, control)
        clock = lab.clock(START)
        subscription = lab.subscribe(lab.customer(clock), lab.price(lab.meter()))
        if finalize_after:
            lab.advance(clock, END + finalize_after - 1)
            assert lab.invoice(subscription.id).status == "draft"
        lab.advance(clock, END + finalize_after)
        assert lab.invoice(subscription.id).status == "paid"


@pytest.mark.req("S9")
def test_without_a_test_clock_real_time_closes_periods(lab: Lab) -> None:
    lab.control.freeze(START * 1_000)
    meter, customer = lab.meter(), lab.customer()
    subscription = lab.subscribe(customer, lab.price(meter))
    lab.send(meter, customer, 3)
    before = lab.control.state()["objects"]
    lab.control.advance((END - START) * 1_000 - 1)
    assert lab.control.state()["objects"] == before
    lab.control.advance(1)
    assert _first_invoice(lab, subscription.id).status == "draft"


def _first_invoice(lab: Lab, subscription: str) -> stripe.Invoice:
    """Polls for the invoice, which the timeline creates concurrently, at most a few hundred times."""
    for _ in range(500):
        if found := lab.invoices(subscription):
            return found[0]
    raise AssertionError("no invoice appeared")
