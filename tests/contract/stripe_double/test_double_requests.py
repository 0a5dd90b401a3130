"""Rules of every call: keys, parameters, errors, pages, expansion, idempotency."""

from typing import Any

import httpx
import pytest
import stripe

from tests.contract.stripe_double.lab import DAY, Lab, client, instant

NOW = instant("2026-03-15T12:00:00")


@pytest.mark.req("S8")
@pytest.mark.parametrize("key", ["sk_test_any", "rk_test_any"])
def test_secret_and_restricted_test_keys_are_accepted(lab: Lab, key: str) -> None:
    assert isinstance(client(lab.address, key=key).v1.customers.list(), stripe.ListObject)


@pytest.mark.req("S8")
@pytest.mark.parametrize("key", ["sk_live_any", "rk_live_any", "pk_test_any", "nonsense"])
def test_other_keys_are_refused(lab: Lab, key: str) -> None:
    with pytest.raises(stripe.AuthenticationError) as error:
        client(lab.address, key=key).v1.customers.list()
    assert error.value.http_status == 401


@pytest.mark.req("S8")
def test_call_without_a_key_is_refused(lab: Lab) -> None:
    answer = httpx.get(f"{lab.address}/v1/customers", trust_env=False)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")


@pytest.mark.req("T3.5")
def test_missing_objects_are_refused_by_name(lab: Lab) -> None:
    """404 for an object of the path, 400 for one of a parameter; always with the name of the parameter."""
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.customers.retrieve("cus_nobody")
    assert (error.value.http_status, error.value.code, error.value.param) == (404, "resource_missing", "id")
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.subscribe("cus_nobody", lab.price(lab.meter()))
    assert (error.value.http_status, error.value.param) == (400, "customer")
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.charges.list()
    assert error.value.http_status == 404
    assert error.value.request_id is not None


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(
    ("params", "param", "code"),
    [
        ({"nickname": "x"}, "nickname", "parameter_unknown"),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None),
        ({"metadata": {"k" * 41: "v"}}, f"metadata[{'k' * 41}]", None),
        ({"metadata": {str(n): "v" for n in range(51)}}, "metadata", None),
        ({"test_clock": "clock_none"}, "test_clock", "resource_missing"),
        ({"expand": ["nothing"]}, "expand", None),
    ],
)
def test_parameters_are_checked_by_name(lab: Lab, params: Any, param: str, code: str | None) -> None:
    before = lab.control.state()["objects"].get("customer")
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.customers.create(params)
    assert (error.value.http_status, error.value.param, error.value.code) == (400, param, code)
    assert lab.control.state()["objects"].get("customer") == before


@pytest.mark.req("T3.5")
def test_nested_parameters_keep_their_shape(lab: Lab) -> None:
    metadata = {"1": "a number for a key", "plain": "ü & = [x] %", "empty": ""}
    found = lab.api.v1.customers.create({"metadata": metadata, "email": "a+b@example.org"})
    assert lab.api.v1.customers.retrieve(found.id).metadata == found.metadata
    assert found.metadata is not None
    assert found.metadata.to_dict() == metadata


@pytest.mark.req("T3.5")
def test_lists_are_paged_newest_first_in_both_directions(lab: Lab) -> None:
    email = f"{lab.name()}@example.org"
    ids = [lab.customer(email=email) for _ in range(12)][::-1]
    first = lab.api.v1.customers.list({"email": email})
    assert [entry.id for entry in first.data] == ids[:10]
    assert first.has_more
    assert [entry.id for entry in first.auto_paging_iter()] == ids
    page = lab.api.v1.customers.list({"email": email, "limit": 5, "starting_after": ids[9]})
    assert ([entry.id for entry in page.data], page.has_more) == (ids[10:], False)
    exactly_all = lab.api.v1.customers.list({"email": email, "limit": 12})
    assert ([entry.id for entry in exactly_all.data], exactly_all.has_more) == (ids, False)
    page = lab.api.v1.customers.list({"email": email, "limit": 5, "ending_before": ids[7]})
    assert ([entry.id for entry in page.data], page.has_more) == (ids[2:7], True)


@pytest.mark.req("T3.5")
@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"starting_after": "cus_nobody"}])
def test_invalid_page_parameters_are_refused(lab: Lab, params: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.customers.list(params)
    assert (error.value.http_status, error.value.param) == (400, next(iter(params)))


@pytest.mark.req("T3.5")
def test_lists_can_be_filtered_by_creation_time(lab: Lab) -> None:
    email = f"{lab.name()}@example.org"
    ids = [lab.customer(lab.clock(NOW + day * DAY), email=email) for day in range(3)]
    created: Any = {"gte": NOW + DAY, "lt": NOW + 2 * DAY}
    found = lab.api.v1.customers.list({"email": email, "created": created})
    assert [entry.id for entry in found.data] == [ids[1]]


@pytest.mark.req("T3.5")
def test_references_are_expanded_on_demand(lab: Lab) -> None:
    clock = lab.clock(NOW)
    price = lab.price(
        lab.meter(),
        billing_scheme="tiered",
        tiers_mode="volume",
        tiers=[{"up_to": 10, "unit_amount": 2}, {"up_to": "inf", "unit_amount": 1}],
    )
    assert "tiers" not in price.to_dict()
    subscription = lab.subscribe(lab.customer(clock), price)
    paths = ["customer.test_clock", "items.data.price.tiers", "items.data.price.product"]
    found = lab.api.v1.subscriptions.retrieve(subscription.id, {"expand": paths})
    assert isinstance(found.customer, stripe.Customer)
    assert isinstance(found.customer.test_clock, stripe.test_helpers.TestClock)
    embedded = found["items"].data[0].price
    assert isinstance(embedded.product, stripe.Product)
    assert [tier.up_to for tier in embedded.tiers] == [10, None]


def _create(lab: Lab, key: str, name: str = "Acme") -> stripe.Customer:
    return lab.api.v1.customers.create(
        {"name": name, "metadata": {"b": "1", "a": "2"}}, {"idempotency_key": key}
    )


@pytest.mark.req("S6")
def test_idempotency_key_replays_the_answer(lab: Lab) -> None:
    key = lab.name("key")
    first, second = _create(lab, key), _create(lab, key)
    assert first.id == second.id
    assert first.last_response is not None
    assert second.last_response is not None
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert second.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]


@pytest.mark.req("S6")
def test_idempotency_key_of_another_request_is_refused(lab: Lab) -> None:
    key = lab.name("key")
    _create(lab, key)
    with pytest.raises(stripe.IdempotencyError) as error:
        _create(lab, key, name="Other")
    assert (error.value.http_status, error.value.error and error.value.error.type) == (
        400,
        "idempotency_error",
    )
    with pytest.raises(stripe.IdempotencyError):
        lab.api.v1.products.create({"name": "Acme"}, {"idempotency_key": key})


@pytest.mark.req("S6")
@pytest.mark.parametrize(("age_ms", "same"), [(DAY * 1_000 - 1, True), (DAY * 1_000, False)])
def test_idempotency_keys_are_remembered_for_24_hours(lab: Lab, age_ms: int, same: bool) -> None:
    key = lab.name("key")
    lab.control.freeze(NOW * 1_000)
    first = _create(lab, key)
    lab.control.advance(age_ms)
    assert (_create(lab, key).id == first.id) is same


@pytest.mark.req("S6")
def test_event_resent_under_its_key_gets_the_stored_answer(lab: Lab) -> None:
    """Although its identifier is a duplicate: the key is checked first."""
    meter, customer, key = lab.meter(), lab.customer(lab.clock(NOW)), lab.name("key")
    first = lab.send(meter, customer, 5, identifier="keyed-event", key=key)
    assert lab.send(meter, customer, 5, identifier="keyed-event", key=key).to_dict() == first.to_dict()
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        lab.send(meter, customer, 5, identifier="keyed-event", key=lab.name("key"))
    assert lab.total(meter, customer, NOW - 60, NOW + 60) == 5


@pytest.mark.req("S6")
def test_answers_are_stored_except_for_malformed_requests(lab: Lab) -> None:
    meter, customer, key = lab.meter(), lab.customer(lab.clock(NOW)), lab.name("key")
    with pytest.raises(stripe.InvalidRequestError, match="whole number"):
        lab.send(meter, customer, "1.5", identifier="mended", key=key)
    lab.send(meter, customer, 2, identifier="mended", key=key)
    refused_key = lab.name("key")
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError, match="already exists") as error:
            lab.send(meter, customer, 2, identifier="mended", key=refused_key)
    assert error.value.headers is not None
    assert error.value.headers["Idempotent-Replayed"] == "true"
