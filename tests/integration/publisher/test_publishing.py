"""Publishing: the provider gets usage once, despite repeated, late, concurrent and refused calls."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import grpc
import pytest
from grpc import aio

from tests.integration.publisher.catalogue import GRADUATED, PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.world import OPEN, PUBLISHED, REJECTED, SENT, START, Api, World
from tests.support.polling import eventually

EVENTS = "/v1/billing/meter_events"


@pytest.mark.req("S6", "T3.1")
async def test_repeated_publish_sends_nothing(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "250")
    first = await api.publish("acme")
    for _ in range(3):
        again = await api.publish("acme")
        assert again == first
    assert (first.invoice.total, first.invoice.state) == ("2.50", PUBLISHED)
    (row,) = first.publications
    assert (row.value, row.revision, row.state) == ("250", 1, SENT)
    assert world.at_provider(acme) == 250
    assert world.sends(acme) == 1
    assert len(world.rows("SELECT FROM calculations")) == 1


@pytest.mark.req("S6", "T1.6")
async def test_concurrent_publishes_on_two_replicas_send_once(world: World, start: StartPublisher) -> None:
    replicas = [await start(), await start()]
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("more", PER_UNIT)])
    await world.use("acme", "7")
    answers = await asyncio.gather(*(replicas[n % 2].publish("acme") for n in range(10)))
    assert {answer.invoice.invoice_id for answer in answers} == {answers[0].invoice.invoice_id}
    assert all(answer.invoice.state == PUBLISHED for answer in answers)
    assert world.sends(acme) == 2
    assert world.at_provider(acme) == world.at_provider(acme, "more") == 7
    assert len(world.rows("SELECT FROM invoices")) == 1
    assert len(world.rows("SELECT FROM calculations")) == 2


@pytest.mark.req("S6", "S9", "T3.4")
async def test_late_usage_and_corrections_are_sent_as_differences(world: World, api: Api) -> None:
    acme = await world.tenant()
    for value, total, difference in [("10", "0.10", "10"), ("2.00", "0.12", "2"), ("-7", "0.05", "-7")]:
        await world.use("acme", value)
        answer = await api.publish("acme")
        assert answer.invoice.total == total
        assert answer.publications[-1].value == difference
    assert [row.revision for row in answer.publications] == [1, 2, 3]
    assert len({row.identifier for row in answer.publications}) == 3
    assert world.at_provider(acme) == 5
    assert len({row.calculation_id for row in answer.invoice.lines}) == 1
    assert len(world.rows("SELECT FROM calculations")) == 3


async def test_line_keeps_its_id_when_recalculated(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "1")
    before = (await api.publish("acme")).invoice
    await world.use("acme", "1")
    after = (await api.publish("acme")).invoice
    assert before.lines[0].line_id == after.lines[0].line_id
    assert before.lines[0].calculation_id != after.lines[0].calculation_id


@pytest.mark.req("S6")
async def test_decimals_are_sent_as_scaled_integers(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT, scale=3)])
    await world.use("acme", "1.234")
    await world.use("acme", "0.8")
    answer = await api.publish("acme")
    assert answer.publications[0].value == "2034"
    assert world.at_provider(acme) == 2034
    assert answer.invoice.lines[0].quantity == "2.034"
    assert answer.invoice.lines[0].exact_amount == "0.02034"


@pytest.mark.req("S6")
async def test_fractional_value_is_rejected_before_sending(world: World, api: Api) -> None:
    acme = await world.tenant(prices=[Priced("calls", PER_UNIT), Priced("fine", PER_UNIT, scale=1)])
    await world.use("acme", "1.5")
    for _ in range(2):
        answer = await api.publish("acme")
        states = {row.meter: (row.state, row.error_code, row.value) for row in answer.publications}
        assert states == {"calls": (REJECTED, "value_not_whole", "1.5"), "fine": (SENT, "", "15")}
        assert answer.invoice.state == OPEN
    await world.use("acme", "0.5")
    resent = await api.publish("acme")
    assert resent.invoice.state == PUBLISHED
    assert world.at_provider(acme) == 2


@pytest.mark.req("S6", "T3.5")
async def test_rejected_usage_is_reported_and_sent_after_correction(world: World, api: Api) -> None:
    acme = await world.tenant()
    meter = world.stripe_meter(acme).id
    world.lab.api.v1.billing.meters.deactivate(meter)
    await world.use("acme", "40")
    rejected = await api.publish("acme")
    assert [(row.state, row.error_code) for row in rejected.publications] == [(REJECTED, "archived_meter")]
    assert rejected.invoice.state == OPEN
    world.lab.api.v1.billing.meters.reactivate(meter)
    resent = await api.publish("acme")
    assert [row.state for row in resent.publications] == [REJECTED, SENT]
    assert resent.invoice.state == PUBLISHED
    assert world.at_provider(acme) == 40


@pytest.mark.req("S6", "T1.6", "X7")
async def test_lost_and_failed_answers_end_in_exact_usage(world: World, api: Api) -> None:
    """Fault 8: a fifth of the answers are lost after the event is stored, a fifth refused, a tenth fail."""
    names = [f"m{number}" for number in range(12)]
    acme = await world.tenant(prices=[Priced(name, PER_UNIT) for name in names])
    for seed, (kind, probability) in enumerate(
        [("timeout_after_accept", 0.2), ("rate_limit_429", 0.2), ("error_500", 0.1), ("error_500_saved", 0.1)]
    ):
        world.lab.control.add_fault(EVENTS, kind, probability=probability, seed=seed)
    total = 0
    for value in range(1, 6):
        total += value
        await world.use("acme", str(value))
        answer = await api.publish("acme")
    assert {row.state for row in answer.publications} == {SENT}
    assert len(answer.publications) == 12 * 5
    assert {world.at_provider(acme, name) for name in names} == {total}
    assert world.sends(acme) == 12 * 5
    faults = {fault["kind"]: fault["fired"] for fault in world.lab.control.faults()}
    assert min(faults.values()) > 0, faults
    assert answer.invoice.state == PUBLISHED


@pytest.mark.req("S9")
async def test_usage_after_final_invoice_is_not_sent_but_reported(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "10")
    await api.publish("acme")
    world.end_month(acme)
    await world.use("acme", "5")
    with pytest.raises(aio.AioRpcError) as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert world.at_provider(acme) == 10
    answer = await api.reconcile("acme")
    (meter,) = answer.meters
    assert (meter.usage, meter.sent, meter.provider, meter.agrees) == ("15", "10", "10", False)
    assert answer.invoice.total == "0.10"


async def test_unknown_meter_does_not_stop_billing_of_others(world: World, api: Api) -> None:
    acme = await world.tenant()
    await api.put("plan-acme", Priced("misspelt", GRADUATED), "other_event")
    del world.mesh.meters["misspelt"]
    await world.use("acme", "10")
    answer = await api.publish("acme")
    assert [(line.meter, line.amount) for line in answer.invoice.lines] == [("calls", "0.10")]
    assert (answer.invoice.state, world.at_provider(acme), world.sends(acme)) == (PUBLISHED, 10, 1)
    del world.mesh.meters["calls"]
    with pytest.raises(aio.AioRpcError) as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert world.sends(acme) == 1


async def test_publish_is_aborted_for_tenant_unknown_to_aggregate(world: World, api: Api) -> None:
    acme = await world.tenant()
    known = world.mesh.tenants.pop("acme")
    with pytest.raises(aio.AioRpcError) as failure:
        await api.publish("acme")
    assert failure.value.code() == grpc.StatusCode.ABORTED
    world.mesh.tenants["acme"] = known
    assert (await api.publish("acme")).invoice.state == PUBLISHED
    assert world.sends(acme) == 0


async def test_publish_of_future_period_is_refused(world: World, api: Api) -> None:
    await world.tenant(now=START + timedelta(days=1))
    with pytest.raises(aio.AioRpcError) as failure:
        await api.publish("acme", START + timedelta(days=40))
    assert failure.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.req("C2")
async def test_calculation_is_recorded_with_rules_and_inputs(world: World, api: Api) -> None:
    await world.tenant()
    await world.use("acme", "10")
    answer = await api.publish("acme")
    (row,) = world.rows(
        "SELECT c.calculation_id::text, c.rule_set_digest, r.digest, c.rules, c.inputs::jsonb,"
        " c.output::jsonb, encode(sha256(c.inputs::bytea), 'hex'), c.inputs_digest, c.code_version"
        " FROM calculations c JOIN rule_sets r USING (rule_set_id)"
    )
    calculation_id, digest, stored, rules, inputs, output, hashed, inputs_digest, version = row
    assert calculation_id == answer.invoice.lines[0].calculation_id
    assert digest == stored
    assert rules == [["plan-acme/calls", 1]]
    assert (inputs["value"], inputs["revision"], inputs["event_count"]) == ("10", 1, 1)
    assert Decimal(output["amount"]) == Decimal(answer.invoice.total)
    assert hashed == inputs_digest
    assert version


async def test_customer_change_within_a_period_is_refused(world: World, api: Api) -> None:
    acme = await world.tenant()
    await world.use("acme", "1")
    await api.publish("acme")
    await world.announce("acme", 1, world.lab.customer(acme.test_clock), version=2)
    await world.use("acme", "1")
    await eventually(lambda: _publish_status(api), until=lambda code: code != grpc.StatusCode.OK)
    assert world.sends(acme) == 1


async def _publish_status(api: Api) -> grpc.StatusCode:
    """The status of PublishUsage, which may be OK until the tenant's cache entry expires."""
    try:
        await api.publish("acme")
    except aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.req("T4.1")
async def test_publishing_separates_tenants(world: World, api: Api) -> None:
    acme, other = await world.tenant(), await world.tenant("other", number=2)
    await world.use("acme", "1")
    await world.use("other", "2")
    mine = await api.publish("acme")
    await api.publish("other")
    assert (world.at_provider(acme), world.at_provider(other)) == (1, 2)
    assert {row.value for row in mine.publications} == {"1"}
