"""A period's amount depends on catalogue, plans and usage, and not on earlier publish or preview calls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count, permutations

import grpc
import pytest
from grpc import aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline.calendar import Period
from meterline.db.pool import Connection
from meterline.tenants import Tenant
from meterline_publisher.prices.rules.rule_sets import RuleSet
from meterline_publisher.publishing import service as publishing_service
from meterline_publisher.rating import pricing
from meterline_publisher.rating import service as rating_service

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import FINALIZED, NOW, PUBLISHED, START, Api, World
from tests.support.fake_billing import FakeBilling
from tests.support.fake_mesh import Event, timestamp

pytestmark = pytest.mark.req("C1", "C2", "S6")

CHEAP, DEAR = PER_UNIT | {"unit": "0.01"}, PER_UNIT | {"unit": "0.07"}
FEBRUARY, MID_MARCH = START - timedelta(days=20), START + timedelta(days=10)


@pytest.mark.parametrize("effective", [START, FEBRUARY])
async def test_later_price_version_applies_to_open_period(
    world: World, api: Api, effective: datetime
) -> None:
    await world.tenant()
    await world.use("acme", "10")
    assert (await api.publish("acme")).invoice.total == "0.10"
    dear = Priced("calls", DEAR)
    acme_event = (await api.publish("acme")).invoice.lines[0]
    before = world.rows("SELECT line_id::text FROM invoice_lines")
    event_name = world.rows("SELECT billing_event_name FROM invoice_lines")[0][0]
    await api.put("plan-acme", dear, event_name, version=2, effective_from=timestamp(effective))
    assert (await api.preview("acme")).total == "0.70"
    invoice = (await api.publish("acme")).invoice
    assert (invoice.total, invoice.lines[0].price_version) == ("0.70", 2)
    assert invoice.lines[0].line_id == acme_event.line_id == before[0][0]
    assert invoice.lines[0].price_digest != acme_event.price_digest


async def test_version_effective_within_a_period_applies_to_the_next(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "10")
    dear = Priced("calls", DEAR)
    await api.put("plan-acme", dear, version=2, effective_from=timestamp(START + timedelta(seconds=1)))
    assert (await api.publish("acme")).invoice.total == "0.10"
    assert (await api.preview("acme", NOW + timedelta(days=30))).lines[0].price_version == 2


async def test_meter_priced_after_first_rating_is_billed(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT)])
    world.mesh.add_meter("more")
    await world.use("acme", "10")
    assert (await api.publish("acme")).invoice.total == "0.10"
    meter = world.lab.meter()
    acme.events["more"] = meter.event_name
    await api.put("plan-acme", Priced("more", PER_UNIT), meter.event_name)
    assert (await api.preview("acme")).total == "0.20"
    answer = await api.publish("acme")
    assert (answer.invoice.total, answer.invoice.state) == ("0.20", PUBLISHED)
    assert (world.at_provider(acme), world.at_provider(acme, "more")) == (10, 10)


async def test_plan_change_at_period_start_moves_sent_usage(world: World, api: Api) -> None:
    """Usage under the old event name is reversed to zero; all of it is sent under the new name."""
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("only-old", PER_UNIT)])
    await world.use("acme", "10")
    await api.publish("acme")
    event_name = world.lab.meter().event_name
    await api.put("plan-other", Priced("calls", DEAR), event_name)
    await world.announce("acme", 1, acme.customer, acme.subscription, version=2, plan="plan-other")
    assert (await api.preview("acme")).total == "0.70"
    answer = await api.publish("acme")
    assert (answer.invoice.total, answer.invoice.state) == ("0.70", PUBLISHED)
    assert [line.meter for line in answer.invoice.lines] == ["calls"]
    assert world.at_provider(acme) == world.at_provider(acme, "only-old") == 0
    acme.events["new"] = event_name
    assert world.at_provider(acme, "new") == 10
    assert len({row.identifier for row in answer.publications}) == len(answer.publications) == 5
    again = await api.publish("acme")
    assert again == answer
    meters = (await api.reconcile("acme")).meters
    assert sorted((one.meter, one.usage, one.sent, one.agrees) for one in meters) == [
        ("calls", "0", "0", True),
        ("calls", "10", "10", True),
        ("only-old", "0", "0", True),
    ]
    # Calculations with the old plan stay on record.
    assert len(world.rows("SELECT FROM calculations")) == 3


async def test_later_plan_change_applies_to_later_periods(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    await api.put("plan-other", Priced("calls", DEAR))
    later = MID_MARCH
    await world.announce(
        "acme", 1, acme.customer, acme.subscription, version=2, plan="plan-other", changed_at=later
    )
    assert (await api.publish("acme")).invoice.total == "0.10"
    april = await api.preview_with("acme", {"calls": "10"}, NOW + timedelta(days=30))
    assert april.invoice.total == "0.70"


async def test_final_invoice_does_not_change(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    final = (await api.publish("acme")).invoice
    world.end_month(acme)
    assert (await api.reconcile("acme")).invoice.state == FINALIZED
    for effective in (START, FEBRUARY):
        with pytest.raises(aio.AioRpcError, match="final invoice") as failure:
            await api.put("plan-acme", Priced("calls", DEAR), version=2, effective_from=timestamp(effective))
        assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(aio.AioRpcError, match="final invoice"):
            await api.put("plan-acme", Priced("new", DEAR), effective_from=timestamp(effective))
    for day in ("2026-02-20", "2026-03-01"):
        with pytest.raises(aio.AioRpcError, match="final invoice"):
            await api.put("plan-acme", Priced("new", DEAR), effective_from=None, effective_date=day)
    await api.put("plan-acme", Priced("new", DEAR), effective_from=None, effective_date="2026-03-02")
    after = timestamp(START + timedelta(microseconds=1))
    await api.put("plan-acme", Priced("calls", DEAR), version=2, effective_from=after)
    # The same version may be put again, and another plan has no final invoice.
    await api.put("plan-acme", Priced("calls", DEAR), version=2, effective_from=after)
    await api.put("plan-other", Priced("calls", DEAR), effective_from=timestamp(FEBRUARY))
    await world.announce("acme", 1, acme.customer, acme.subscription, version=2, plan="plan-other")
    assert (await api.preview("acme")).total == "0.10"
    (kept,) = await api.invoice_list("acme")
    assert (kept.total, kept.invoice_id) == ("0.10", final.invoice_id)


# --- the history of plans


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])))
async def test_plan_changes_may_arrive_in_any_order(world: World, api: Api, order: tuple[int, ...]) -> None:
    for plan, unit in (("a", "1"), ("b", "2"), ("c", "3")):
        await api.put(plan, Priced("calls", PER_UNIT | {"unit": unit}))
    world.mesh.add_tenant("acme", 1, "UTC")
    world.mesh.add_meter("calls")
    changes = {1: ("a", FEBRUARY), 2: ("b", START), 3: ("c", START + timedelta(microseconds=1))}
    for version in (*order, *order):
        plan, at = changes[version]
        await world.announce("acme", 1, version=version, plan=plan, changed_at=at)
    units = {"calls": "1"}
    totals = [
        (await api.preview_with("acme", units, at)).invoice.total
        for at in (FEBRUARY - timedelta(days=30), FEBRUARY, NOW, NOW + timedelta(days=30))
    ]
    # The tenant had no plan at the start of February: its first plan applies, as it does to earlier months.
    assert totals == ["1.00", "1.00", "2.00", "3.00"]


async def test_plan_without_start_applies_to_all_earlier_periods(world: World, api: Api) -> None:
    """The migration stores such a plan; a replay of all earlier messages does not change it."""
    for plan, unit in (("a", "1"), ("b", "2"), ("c", "3")):
        await api.put(plan, Priced("calls", PER_UNIT | {"unit": unit}))
    world.mesh.add_tenant("acme", 1, "UTC")
    world.mesh.add_meter("calls")
    world.rows("INSERT INTO tenant_plans VALUES (1, 2, 'b', NULL) RETURNING 1")
    for version, plan, at in ((1, "a", FEBRUARY), (2, "b", MID_MARCH), (3, "c", NOW)):
        await world.announce("acme", 1, version=version, plan=plan, changed_at=at)
    totals = [
        (await api.preview_with("acme", {"calls": "1"}, at)).invoice.total
        for at in (FEBRUARY - timedelta(days=60), FEBRUARY, NOW, NOW + timedelta(days=30))
    ]
    assert totals == ["2.00", "2.00", "2.00", "3.00"]


async def test_tenant_without_plan_is_not_billed(world: World, api: Api) -> None:
    world.mesh.add_tenant("acme", 1, "UTC")
    await world.announce("acme", 1, "cus_1", plan="")
    with pytest.raises(aio.AioRpcError, match="has never had a plan") as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    await api.put("late", Priced("calls", PER_UNIT))
    world.mesh.add_meter("calls")
    await world.announce("acme", 1, "cus_1", version=2, plan="late", changed_at=MID_MARCH)
    assert (await api.preview_with("acme", {"calls": "7"})).invoice.total == "0.07"


# --- the same history, with and without calls in between


@dataclass(frozen=True)
class Plan:
    version: int
    plan: str
    at: datetime


@dataclass(frozen=True)
class Version:
    plan: str
    meter: str
    version: int
    unit: str
    start: datetime


@dataclass(frozen=True)
class Use:
    value: str


@dataclass(frozen=True)
class Call:
    name: str


Step = Plan | Version | Use | Call

INSTANTS = [FEBRUARY, START, MID_MARCH]
BASE: tuple[Step, ...] = (
    Version("a", "calls", 1, "1", FEBRUARY),
    Version("b", "calls", 1, "7", FEBRUARY),
    Plan(1, "a", FEBRUARY),
    Use("3"),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """A tenant's plans, versions of two plans, and usage, in a valid order."""
    steps: list[Step] = list(BASE)
    plans = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(INSTANTS)), max_size=3))
    steps += [Plan(number + 2, plan, at) for number, (plan, at) in enumerate(plans)]
    for plan in "ab":
        starts = sorted(draw(st.sets(st.sampled_from(INSTANTS[1:]))))
        steps += [Version(plan, "calls", place + 2, str(place + 2), at) for place, at in enumerate(starts)]
        steps += [
            Version(plan, "more", 1, "5", at) for at in draw(st.sets(st.sampled_from(INSTANTS), max_size=1))
        ]
    steps += [Use(value) for value in draw(st.lists(st.sampled_from(["2", "-1"]), max_size=2))]
    steps = draw(st.permutations(steps))
    # The catalogue accepts versions only in their order.
    rank = iter(sorted((one for one in steps if isinstance(one, Version)), key=lambda one: one.version))
    return [next(rank) if isinstance(one, Version) else one for one in steps]


numbers = count(10)


class History:
    """Runs steps for its own tenant and plans, and returns the totals of the month."""

    def __init__(self, world: World, api: Api, billing: FakeBilling) -> None:
        self.world, self.api, self.billing = world, api, billing
        self.number = next(numbers)
        self.slug = f"t{self.number}"
        world.mesh.add_tenant(self.slug, self.number, "UTC")

    async def run(self, steps: Sequence[Step]) -> tuple[str, str, dict[str, Decimal]]:
        for step in steps:
            await self.step(step)
        preview = await self.api.preview(self.slug)
        invoice = (await self.api.publish(self.slug)).invoice
        assert invoice.state == PUBLISHED
        held: dict[str, Decimal] = {}
        for kept in self.billing.kept:
            if kept.event.customer == f"cus_{self.slug}":
                name = kept.event.event_name.removeprefix(f"{self.slug}-")
                held[name] = held.get(name, Decimal(0)) + kept.event.value
        return preview.total, invoice.total, {name: value for name, value in held.items() if value}

    async def step(self, step: Step) -> None:
        match step:
            case Plan():
                await self.world.announce(
                    self.slug,
                    self.number,
                    f"cus_{self.slug}",
                    version=step.version,
                    plan=f"{self.slug}-{step.plan}",
                    changed_at=step.at,
                )
            case Version():
                event_name = f"{self.slug}-{step.plan}-{step.meter}"
                self.billing.meters.add(event_name)
                await self.api.put(
                    f"{self.slug}-{step.plan}",
                    Priced(step.meter, PER_UNIT | {"unit": step.unit}),
                    event_name,
                    version=step.version,
                    effective_from=timestamp(step.start),
                )
            case Use():
                self.world.mesh.capture(self.slug, [Event(NOW, value=step.value)])
            case Call():
                # These calls fail before the tenant has a plan and a price.
                with suppress(aio.AioRpcError):
                    await getattr(self.api, step.name)(self.slug)


def with_calls(steps: Sequence[Step], seed: int) -> list[Step]:
    """The steps with random publish and preview calls after each of them."""
    draw = random.Random(seed)
    found: list[Step] = []
    for step in steps:
        found += [step, *draw.choices([Call("publish"), Call("preview")], k=draw.randrange(3))]
    return found


Billed = tuple[Api, FakeBilling]


@pytest.fixture
async def billed(world: World, start: StartPublisher) -> Billed:
    """One replica for all examples of a test, with a provider in memory."""
    billing = FakeBilling(world.now)
    api = await start(billing, send_backoff_seconds=0.01)
    for meter in ("calls", "more"):
        world.mesh.add_meter(meter)
    return api, billing


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=histories(), seed=st.integers(0, 999))
async def test_interleaved_calls_do_not_change_amounts(
    world: World, billed: Billed, steps: list[Step], seed: int
) -> None:
    quiet = await History(world, *billed).run(steps)
    busy = await History(world, *billed).run(with_calls(steps, seed))
    assert quiet == busy
    assert quiet[0] == quiet[1]


async def test_first_rating_that_pins_prices_is_detected(
    world: World, billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: an invoice keeps the plan and price versions of its first rating."""
    steps: list[Step] = [*BASE, Version("a", "calls", 2, "2", START)]
    quiet = await History(world, *billed).run(steps)
    for module in (publishing_service, rating_service):
        monkeypatch.setattr(module, "basis", pinned)
    busy = await History(world, *billed).run([*steps[:-1], Call("publish"), steps[-1]])
    assert (quiet[1], busy[1]) == ("6.00", "3.00")


async def pinned(connection: Connection, tenant: Tenant, period: Period) -> pricing.Basis:
    found = await pricing.basis(connection, tenant, period)
    if not found.lines:
        return found
    versions = {meter: line.price_version for meter, line in found.lines.items()}
    rules = tuple(rule for rule in found.catalogue if versions.get(rule.meter) == rule.version.version)
    return replace(found, rule_set=RuleSet(rules))
