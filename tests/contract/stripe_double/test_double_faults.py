"""Injected faults: the caller's error, and whether the call took effect."""

from collections import Counter
from typing import Any

import httpx
import pytest
import stripe
from meterline_dev.stripe_double import ControlClient, running_double

from tests.contract.stripe_double.lab import CONTROL_KEY, Lab, client, instant

NOW = instant("2026-03-15T12:00:00")
EVENTS = "/v1/billing/meter_events"


class World:
    """One meter and one customer, and the usage counted for them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.meter = lab.meter()
        self.customer = lab.customer(lab.clock(NOW))

    def send(self, value: int = 1, **more: Any) -> stripe.billing.MeterEvent:
        return self.lab.send(self.meter, self.customer, value, **more)

    def counted(self) -> int:
        return sum(event["value"] for event in self.lab.control.meter_events(self.customer))


@pytest.fixture
def world(lab: Lab) -> World:
    return World(lab)


@pytest.mark.req("T8.3")
@pytest.mark.parametrize(
    ("kind", "expected", "status", "code", "advice"),
    [
        ("rate_limit_429", stripe.RateLimitError, 429, "rate_limit", None),
        ("lock_timeout", stripe.RateLimitError, 429, "lock_timeout", "true"),
        ("error_500", stripe.APIError, 500, None, None),
    ],
)
def test_refused_call_has_no_effect_and_may_reuse_its_key(
    world: World,
    kind: str,
    expected: type[stripe.StripeError],
    status: int,
    code: str | None,
    advice: str | None,
) -> None:
    world.lab.control.add_fault(EVENTS, kind, next_n=2)
    for _ in range(2):
        with pytest.raises(expected) as error:
            world.send(identifier="refused", key="key-of-" + kind)
        assert error.value.http_status == status
        assert error.value.headers is not None
        assert error.value.headers.get("Stripe-Should-Retry") == advice
        assert error.value.error is not None
        assert error.value.error.code == code
    assert world.counted() == 0
    world.send(identifier=f"after-{kind}", key="key-of-" + kind)
    assert world.counted() == 1


@pytest.mark.req("T8.3", "S6")
def test_stored_500_is_replayed_for_its_key(world: World) -> None:
    world.lab.control.add_fault(EVENTS, "error_500_saved", next_n=1)
    for _ in range(2):
        with pytest.raises(stripe.APIError) as error:
            world.send(identifier="saved-500", key="first-key")
    assert error.value.headers is not None
    assert error.value.headers["Idempotent-Replayed"] == "true"
    assert world.counted() == 0
    world.send(identifier="saved-500", key="second-key")
    assert world.counted() == 1


@pytest.mark.req("T8.3", "S6")
def test_timeout_before_execution_has_no_effect(world: World) -> None:
    world.lab.control.add_fault(EVENTS, "timeout_before", next_n=1)
    with pytest.raises(stripe.APIConnectionError):
        world.send(identifier="cut-before", key="cut-before")
    assert world.counted() == 0
    world.send(identifier="cut-before", key="cut-before")
    assert world.counted() == 1


@pytest.mark.req("T8.3", "S6")
def test_timeout_after_execution_has_taken_effect(world: World) -> None:
    """The same key replays the answer; with another key the event is a duplicate. Both count once."""
    world.lab.control.add_fault(EVENTS, "timeout_after_accept", next_n=1)
    with pytest.raises(stripe.APIConnectionError):
        world.send(5, identifier="cut-after", key="cut-after")
    assert world.counted() == 5
    again = world.send(5, identifier="cut-after", key="cut-after")
    assert again.last_response is not None
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.InvalidRequestError, match="already exists"):
        world.send(5, identifier="cut-after", key="another")
    assert world.counted() == 5


@pytest.mark.req("T8.3", "S6")
def test_duplicate_error_means_delivered(world: World) -> None:
    world.lab.control.add_fault(EVENTS, "duplicate_400", next_n=1)
    with pytest.raises(
        stripe.InvalidRequestError, match="An event already exists with identifier twin"
    ) as error:
        world.send(3, identifier="twin", key="twin")
    assert (error.value.http_status, error.value.code) == (400, None)
    assert world.counted() == 3


@pytest.mark.req("T8.3")
def test_held_call_ends_with_the_callers_timeout(world: World) -> None:
    """The caller's timeout is much shorter than the time for which the double holds the call."""
    world.lab.control.add_fault(EVENTS, "timeout_after_accept", next_n=1, hold_seconds=60)
    impatient = stripe.StripeClient(
        "sk_test_lab",
        base_addresses={"api": world.lab.address},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=0.1),
    )
    world.lab.api = impatient
    with pytest.raises(stripe.APIConnectionError, match="timed out"):
        world.send(2)
    assert world.counted() == 2


@pytest.mark.req("T8.3", "T1.1")
def test_library_retries_count_once(world: World) -> None:
    world.lab.control.add_fault(EVENTS, "timeout_after_accept", next_n=1)
    world.lab.api = client(world.lab.address, retries=2)
    assert world.send(4).identifier
    assert world.counted() == 4
    assert world.lab.control.faults()[0]["fired"] == 1


def _outcomes(world: World, calls: int) -> list[str]:
    found = []
    for _ in range(calls):
        try:
            world.send()
            found.append("ok")
        except stripe.APIConnectionError:
            found.append("cut")
        except stripe.RateLimitError:
            found.append("429")
        except stripe.APIError:
            found.append("500")
    return found


@pytest.mark.req("T8.3")
def test_faults_are_reproducible_by_seed(world: World) -> None:
    """The mix of the fault runs: 20% timeouts after accept, 20% 429, 10% 500."""

    def run(seed: int) -> list[str]:
        world.lab.control.clear_faults()
        world.lab.control.add_fault(EVENTS, "timeout_after_accept", probability=0.2, seed=seed)
        world.lab.control.add_fault(EVENTS, "rate_limit_429", probability=0.2, seed=seed + 1)
        world.lab.control.add_fault(EVENTS, "error_500", probability=0.1, seed=seed + 2)
        return _outcomes(world, 120)

    first, second, other = run(7), run(7), run(8)
    assert second == first
    assert other != first
    counts = Counter(first)
    assert set(counts) == {"ok", "cut", "429", "500"}
    assert 10 <= counts["cut"] <= 40
    delivered = sum(outcome in ("ok", "cut") for outcome in [*first, *second, *other])
    assert world.counted() == delivered


@pytest.mark.req("T8.3")
def test_rules_affect_only_matching_calls_until_cleared(world: World) -> None:
    world.lab.control.add_fault("/v1/customers", "error_500", method="POST")
    world.send()
    world.lab.api.v1.customers.list()
    with pytest.raises(stripe.APIError):
        world.lab.customer()
    world.lab.control.clear_faults()
    world.lab.customer()
    assert world.lab.control.faults() == []


@pytest.mark.req("T8.3")
@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "nonsense"},
        {"kind": "error_500", "probability": 2},
        {"kind": "error_500", "next_n": 0},
        {"kind": "error_500", "unknown": 1},
        {"kind": "duplicate_400", "path_prefix": "/v1/customers"},
    ],
)
def test_invalid_rules_are_refused(lab: Lab, rule: dict[str, Any]) -> None:
    body = {"path_prefix": EVENTS, **rule}
    headers = {"Authorization": f"Bearer {CONTROL_KEY}"}
    answer = httpx.post(f"{lab.address}/_double/faults", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["problems"]
    assert lab.control.faults() == []


@pytest.mark.req("T4.1")
@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer rk_test_double", f"Bearer {CONTROL_KEY}x", CONTROL_KEY]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "state"),
        ("GET", "meter_events"),
        ("POST", "reset"),
        ("GET", "clock"),
        ("POST", "clock"),
        ("GET", "faults"),
        ("POST", "faults"),
        ("DELETE", "faults"),
    ],
)
def test_control_calls_require_the_key(lab: Lab, method: str, path: str, key: str) -> None:
    answer = httpx.request(
        method, f"{lab.address}/_double/{path}", headers={"Authorization": key}, trust_env=False
    )
    assert answer.status_code == 401
    assert CONTROL_KEY not in answer.text


@pytest.mark.req("T4.1")
def test_double_without_control_key_has_no_control_calls() -> None:
    with running_double() as double, ControlClient(double.address, "any") as control:
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            control.reset()
        assert httpx.get(f"{double.address}/healthz", trust_env=False).status_code == 200
