"""Meter events: what is accepted, refused, remembered and cancelled."""

from typing import Any

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.stripe_double.lab import DAY, Lab, instant

NOW = instant("2026-03-15T12:00:00")
FAST = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.req("S6")
def test_answer_repeats_the_sent_event(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    event = lab.send(meter, customer, 25, at=NOW - 60, identifier="an-identifier-of-mine")
    assert isinstance(event, stripe.billing.MeterEvent)
    assert (event.event_name, event.identifier, event.timestamp, event.created) == (
        meter.event_name,
        "an-identifier-of-mine",
        NOW - 60,
        NOW,
    )
    assert event.payload.to_dict() == {"stripe_customer_id": customer, "value": "25"}


@pytest.mark.req("S6")
def test_missing_identifier_and_timestamp_are_generated(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    params: Any = {"event_name": meter.event_name, "payload": {"stripe_customer_id": customer, "value": "1"}}
    first, second = (lab.api.v1.billing.meter_events.create(params) for _ in range(2))
    assert first.identifier != second.identifier
    assert first.timestamp == NOW


@pytest.mark.req("S6")
def test_repeated_identifier_is_refused_and_counts_once(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    lab.send(meter, customer, 5, identifier="once-only")
    message = "An event already exists with identifier once-only"
    with pytest.raises(stripe.InvalidRequestError, match=message) as error:
        lab.send(meter, customer, 5, identifier="once-only")
    assert (error.value.http_status, error.value.code) == (400, None)
    assert error.value.error is not None
    assert error.value.error.type == "invalid_request_error"
    assert error.value.headers is not None
    assert error.value.headers["Stripe-Should-Retry"] == "false"
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == 5


@FAST
@given(age_ms=st.one_of(st.integers(0, 3 * DAY * 1_000), st.sampled_from([DAY * 1_000 - 1, DAY * 1_000])))
@pytest.mark.req("S6")
def test_identifiers_are_remembered_for_exactly_24_hours(lab: Lab, age_ms: int) -> None:
    """By the double's own clock, independent of the customer's test clock."""
    meter, customer, identifier = lab.meter(), lab.customer(lab.clock(NOW)), lab.name("id")
    lab.control.freeze(NOW * 1_000)
    lab.send(meter, customer, 7, identifier=identifier)
    lab.control.advance(age_ms)
    if age_ms < DAY * 1_000:
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            lab.send(meter, customer, 7, identifier=identifier)
        expected = 7
    else:
        lab.send(meter, customer, 7, identifier=identifier)
        expected = 14
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == expected


@FAST
@given(
    offset=st.one_of(
        st.integers(-40 * DAY, 600), st.sampled_from([-35 * DAY - 1, -35 * DAY, -35 * DAY + 1, 299, 300, 301])
    ),
    on_test_clock=st.booleans(),
)
@pytest.mark.req("S6", "T1.5")
def test_timestamps_reach_35_days_back_and_5_min_ahead(lab: Lab, offset: int, on_test_clock: bool) -> None:
    """By the customer's test clock, or by the double's own clock without one."""
    test_time = NOW - 400 * DAY
    lab.control.freeze(NOW * 1_000)
    meter = lab.meter()
    customer = lab.customer(lab.clock(test_time) if on_test_clock else None)
    at = (test_time if on_test_clock else NOW) + offset
    if -35 * DAY <= offset <= 300:
        assert lab.send(meter, customer, at=at).timestamp == at
        return
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.send(meter, customer, at=at)
    code = "timestamp_too_far_in_past" if offset < 0 else "timestamp_in_future"
    assert (error.value.http_status, error.value.code, error.value.param) == (400, code, "timestamp")


@pytest.mark.req("S6")
@pytest.mark.parametrize("value", ["0", "-12", "999999999999999", "-999999999999999", "00000000000000000042"])
def test_integers_of_up_to_15_digits_are_accepted(lab: Lab, value: str) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    lab.send(meter, customer, value)
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == int(value)


@pytest.mark.req("S6")
@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1.5", "meter_event_invalid_value"),
        ("", "meter_event_invalid_value"),
        ("1e3", "meter_event_invalid_value"),
        ("NaN", "meter_event_invalid_value"),
        (" 1", "meter_event_invalid_value"),
        ("٣", "meter_event_invalid_value"),
        ("1000000000000000", "meter_event_value_too_many_digits"),
        ("-9999999999999999", "meter_event_value_too_many_digits"),
    ],
)
def test_invalid_values_are_refused(lab: Lab, value: str, code: str) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.send(meter, customer, value)
    assert (error.value.http_status, error.value.code, error.value.param) == (400, code, "payload[value]")
    assert lab.control.meter_events(customer) == []


@pytest.mark.req("S6")
def test_identifier_and_event_name_have_at_most_100_characters(lab: Lab) -> None:
    meter, customer = lab.meter(event_name="e" * 100), lab.customer()
    lab.send(meter, customer, identifier="i" * 100)
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.send(meter, customer, identifier="i" * 101)
    assert error.value.param == "identifier"
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.meter(event_name="e" * 101)
    assert error.value.param == "event_name"


@pytest.mark.req("S6")
def test_missing_or_deactivated_meters_refuse_events(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer()
    lab.api.v1.billing.meters.deactivate(meter.id)
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.send(meter, customer)
    assert error.value.code == "archived_meter"
    lab.api.v1.billing.meters.reactivate(meter.id)
    lab.send(meter, customer)
    params: Any = {"event_name": "nobody", "payload": {"stripe_customer_id": customer, "value": "1"}}
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.billing.meter_events.create(params)
    assert (error.value.http_status, error.value.code) == (400, "no_meter")


@pytest.mark.req("S6")
def test_meter_defines_the_payload_keys(lab: Lab) -> None:
    meter = lab.meter(
        customer_mapping={"type": "by_id", "event_payload_key": "who"},
        value_settings={"event_payload_key": "how_much"},
    )
    customer = lab.customer(lab.clock(NOW))
    payload = {"who": customer, "how_much": "9", "region": "eu"}
    lab.api.v1.billing.meter_events.create({"event_name": meter.event_name, "payload": payload})
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == 9
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.send(meter, customer)
    assert (error.value.code, error.value.param) == ("meter_event_no_customer_defined", "payload[who]")


@pytest.mark.req("S6")
def test_two_active_meters_cannot_share_an_event_name(lab: Lab) -> None:
    meter = lab.meter()
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.meter(event_name=meter.event_name)
    assert error.value.param == "event_name"
    lab.api.v1.billing.meters.deactivate(meter.id)
    assert lab.meter(event_name=meter.event_name).status == "active"
    assert lab.api.v1.billing.meters.retrieve(meter.id).status == "inactive"


def _cancel(lab: Lab, meter: stripe.billing.Meter, identifier: str) -> stripe.billing.MeterEventAdjustment:
    return lab.api.v1.billing.meter_event_adjustments.create(
        {"event_name": meter.event_name, "type": "cancel", "cancel": {"identifier": identifier}}
    )


@pytest.mark.req("T3.4")
def test_cancelled_event_does_not_count(lab: Lab) -> None:
    meter, customer = lab.meter(), lab.customer(lab.clock(NOW))
    lab.send(meter, customer, 5, identifier="keep-this")
    lab.send(meter, customer, 8, identifier="cancel-this")
    adjustment = _cancel(lab, meter, "cancel-this")
    assert adjustment.cancel is not None
    assert (adjustment.type, adjustment.cancel.identifier) == ("cancel", "cancel-this")
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == 5
    with pytest.raises(stripe.InvalidRequestError, match="canceled already"):
        _cancel(lab, meter, "cancel-this")
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        lab.send(meter, customer, 8, identifier="cancel-this")


@pytest.mark.req("T3.4")
@pytest.mark.parametrize(("age_ms", "cancels"), [(DAY * 1_000, True), (DAY * 1_000 + 1, False)])
def test_events_can_be_cancelled_within_24_hours_of_receipt(lab: Lab, age_ms: int, cancels: bool) -> None:
    meter, customer, identifier = lab.meter(), lab.customer(lab.clock(NOW)), lab.name("id")
    lab.control.freeze(NOW * 1_000)
    lab.send(meter, customer, 3, identifier=identifier)
    lab.control.advance(age_ms)
    if cancels:
        _cancel(lab, meter, identifier)
    else:
        with pytest.raises(stripe.InvalidRequestError, match="within 24 hours"):
            _cancel(lab, meter, identifier)
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == (None if cancels else 3)


@pytest.mark.req("T3.4")
def test_cancellation_requires_the_event_name(lab: Lab) -> None:
    meter, other, customer = lab.meter(), lab.meter(), lab.customer()
    lab.send(meter, customer, identifier="of-the-first-meter")
    with pytest.raises(stripe.InvalidRequestError) as error:
        _cancel(lab, other, "of-the-first-meter")
    assert (error.value.http_status, error.value.code) == (400, "resource_missing")
