"""Inactive tenants: every way to submit events refuses them, and their stored events are still read and
billed. A reactivated tenant is accepted again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import grpc
import pytest
import pytest_asyncio
import stripe
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline_dev import channels
from meterline_dev.mesh import Mesh
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc, tenants_pb2, tenants_pb2_grpc
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    corrections_pb2,
    corrections_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    quarantine_pb2,
    quarantine_pb2_grpc,
    timers_pb2,
    timers_pb2_grpc,
)
from meterline_protos.publisher.v1 import (
    invoices_pb2,
    invoices_pb2_grpc,
    publications_pb2,
    publications_pb2_grpc,
)

from tests.fault.load import METERS, prepare, wait_until_settled
from tests.fault.tenant_objects import bill, fill
from tests.support.capture import Sample, columns, rows
from tests.support.credentials import SignedClient, refusal
from tests.support.polling import eventually
from tests.support.usage import month_total

pytestmark = [pytest.mark.req("S1", "S9", "T4.1"), pytest.mark.timeout(300), pytest.mark.xdist_group("mesh")]

TENANT = "acme"
INACTIVE = "TENANT_INACTIVE"
WHO: dict[str, Any] = {"requested_by": "ann", "reason": "because"}


@dataclass(frozen=True)
class Acme:
    """The tenant, with an event, a running timer, and its own clients."""

    mesh: Mesh
    identity: aio.Channel
    ingest: aio.Channel
    aggregate: aio.Channel
    publisher: aio.Channel
    event_id: str
    timer_id: str
    own_type: str
    client: SignedClient
    api_key: str

    async def activate(self, active: bool) -> tenants_pb2.Tenant:
        request = tenants_pb2.UpdateTenantRequest(tenant_id=TENANT, active=active)
        return (await tenants_pb2_grpc.TenantsServiceStub(self.identity).UpdateTenant(request)).tenant

    async def reported(self) -> list[str]:
        """Reports one event; returns the reasons of its refusal."""
        stub = capture_pb2_grpc.CaptureServiceStub(self.ingest)
        return reasons(await stub.Report(rows(Sample(), tenant_id=TENANT)))

    async def accepted(self) -> int:
        stub = events_pb2_grpc.EventsServiceStub(self.ingest)
        (total,) = (await stub.GetTotals(events_pb2.GetTotalsRequest(tenant_id=TENANT))).totals
        return int(total.accepted)

    def own_channel(self) -> aio.Channel:
        """A channel with the tenant's own API key."""
        return channels.channel(self.mesh.address("ingest"), lambda: self.api_key)

    async def stopped_timer(self) -> timers_pb2.Timer:
        request = timers_pb2.StopTimerRequest(tenant_id=TENANT, timer_id=self.timer_id)
        return (await timers_pb2_grpc.TimersServiceStub(self.ingest).StopTimer(request)).timer

    async def used(self) -> Decimal:
        return await month_total(self.aggregate, TENANT, "calls")

    async def publish(self) -> invoices_pb2.Invoice:
        stub = publications_pb2_grpc.PublicationsServiceStub(self.publisher)
        request = publications_pb2.PublishUsageRequest(tenant_id=TENANT, at=now())
        return (await stub.PublishUsage(request, timeout=30)).invoice

    async def preview(self) -> invoices_pb2.Invoice:
        stub = invoices_pb2_grpc.InvoicesServiceStub(self.publisher)
        request = invoices_pb2.PreviewInvoiceRequest(tenant_id=TENANT, at=now())
        return (await stub.PreviewInvoice(request)).invoice

    async def gaps(self) -> list[invoices_pb2.BillingGap]:
        stub = invoices_pb2_grpc.InvoicesServiceStub(self.publisher)
        return list((await stub.ListBillingGaps(invoices_pb2.ListBillingGapsRequest())).gaps)


def now() -> Timestamp:
    moment = Timestamp()
    moment.GetCurrentTime()
    return moment


def sell(mesh: Mesh) -> None:
    """Creates the meters at the provider."""
    provider = stripe.StripeClient(mesh.stripe_key, base_addresses={"api": mesh.stripe_url})
    for meter in METERS:
        provider.v1.billing.meters.create(
            {"display_name": meter, "event_name": meter, "default_aggregation": {"formula": "sum"}}
        )


def reasons(answer: Any) -> list[str]:
    return [outcome.reason for outcome in answer.outcomes]


@pytest_asyncio.fixture(loop_scope="package")
async def acme(mesh: Mesh) -> AsyncIterator[Acme]:
    async with AsyncExitStack() as stack:
        await prepare(mesh, (TENANT,))
        names = (await fill(mesh, TENANT)).by_field
        await bill(mesh, TENANT)
        await asyncio.to_thread(sell, mesh)
        open_to = {
            name: await stack.enter_async_context(mesh.channel(name))
            for name in ("identity", "ingest", "aggregate", "publisher")
        }
        stub = credentials_pb2_grpc.CredentialsServiceStub(open_to["identity"])
        issued = await stub.IssueCaptureConfig(
            credentials_pb2.IssueCaptureConfigRequest(
                tenant_id=TENANT, actor="u", types=["api.request"], source="signed"
            )
        )
        key = await stub.CreateApiKey(
            credentials_pb2.CreateApiKeyRequest(tenant_id=TENANT, name="own", permissions=["capture", "read"])
        )
        yield Acme(
            mesh,
            open_to["identity"],
            open_to["ingest"],
            open_to["aggregate"],
            open_to["publisher"],
            event_id=next(text for text in sorted(names["event_id"]) if not text.startswith("order")),
            timer_id=next(iter(names["timer_id"])),
            own_type=next(text for text in names["name"] if text.startswith("own.")),
            client=SignedClient(issued.config, issued.client_secret, issued.key_id),
            api_key=key.token,
        )


@pytest.mark.asyncio(loop_scope="package")
async def test_inactive_tenant_is_refused_new_events_and_billed_for_stored_ones(acme: Acme) -> None:
    before = await acme.accepted()
    assert before > 0
    assert not (await acme.activate(False)).active
    while (found := await acme.reported()) != [INACTIVE]:
        # Events are accepted until ingest has received the change, within seconds.
        assert found == []
        before += 1
    await assert_refused_by_every_submission(acme)
    timer = await acme.stopped_timer()
    assert (timer.state, timer.problem.split(":")[0]) == (timers_pb2.TIMER_STATE_STOPPING, INACTIVE)
    await assert_readable(acme, before)
    await assert_billed(acme, before)
    assert (await acme.activate(True)).active
    await eventually(acme.reported, until=lambda found: found == [])
    # The timer's event was kept until the tenant was active again.
    timer = await acme.stopped_timer()
    assert (timer.state, timer.problem) == (timers_pb2.TIMER_STATE_STOPPED, "")
    assert await acme.accepted() == before + 2


async def assert_refused_by_every_submission(acme: Acme) -> None:
    capture = capture_pb2_grpc.CaptureServiceStub(acme.ingest)
    assert reasons(await capture.Report(columns(Sample(), tenant_id=TENANT))) == [INACTIVE]
    async with acme.own_channel() as own:
        answer = await capture_pb2_grpc.CaptureServiceStub(own).Report(rows(Sample(), tenant_id=TENANT))
    assert reasons(answer) == [INACTIVE]
    message = capture_pb2.StreamRequest(tenant_id=TENANT, source="s", event=Sample().to_row())
    streamed = [answer async for answer in capture.Stream(iter([message]))]
    assert [each.outcome.reason for answer in streamed for each in answer.outcomes] == [INACTIVE]
    async with aio.insecure_channel(acme.mesh.address("ingest")) as nobody:
        stub: Any = capture_pb2_grpc.CaptureServiceStub(nobody)
        signed = acme.client.request(rows(Sample(subject="u"), tenant_id="", source=""))
        assert reasons((await stub.ReportSigned(signed)).report) == [INACTIVE]
    brought = corrections_pb2.ImportEventsRequest(
        tenant_id=TENANT, source="old", import_id=str(uuid.uuid4()), rows=rows(Sample()).rows, **WHO
    )
    corrections = corrections_pb2_grpc.CorrectionsServiceStub(acme.ingest)
    assert reasons(await corrections.ImportEvents(brought)) == [INACTIVE]
    quarantine = quarantine_pb2_grpc.QuarantineServiceStub(acme.ingest)
    held = await quarantine.ListQuarantined(quarantine_pb2.ListQuarantinedRequest(tenant_id=TENANT))
    # Only an earlier rejected event: events of inactive tenants are not quarantined.
    (entry,) = held.entries
    replay = quarantine_pb2.ReplayQuarantinedRequest(tenant_id=TENANT, **WHO)
    replay.ids.quarantine_ids.append(entry.quarantine_id)
    assert reasons(await quarantine.ReplayQuarantined(replay)) == [INACTIVE]
    begun = timers_pb2.StartTimerRequest(tenant_id=TENANT, timer_id="new", source="s", type=acme.own_type)
    with pytest.raises(aio.AioRpcError) as failure:
        await timers_pb2_grpc.TimersServiceStub(acme.ingest).StartTimer(begun)
    assert refusal(failure.value) == (grpc.StatusCode.INVALID_ARGUMENT, INACTIVE)


async def assert_readable(acme: Acme, accepted: int) -> None:
    """Asserts that the operator and the tenant's own key can read, and that events can be corrected."""
    assert await acme.accepted() == accepted
    await eventually(acme.used, until=lambda found: found == accepted)
    request = events_pb2.GetEventRequest(tenant_id=TENANT, event_id=acme.event_id)
    async with acme.own_channel() as own:
        found = await events_pb2_grpc.EventsServiceStub(own).GetEvent(request)
    assert found.event.event_id == acme.event_id
    changes = corrections_pb2.EventChanges(quantities={"units": "9"})
    amended = await corrections_pb2_grpc.CorrectionsServiceStub(acme.ingest).AmendEvent(
        corrections_pb2.AmendEventRequest(tenant_id=TENANT, event_id=acme.event_id, changes=changes, **WHO)
    )
    assert amended.correction.after.quantities["units"] == "9"


async def assert_billed(acme: Acme, accepted: int) -> None:
    await wait_until_settled(acme.mesh)
    invoice = await acme.publish()
    assert {line.meter: line.quantity for line in invoice.lines}["calls"] == str(accepted)
    assert invoice.state == invoices_pb2.INVOICE_STATE_PUBLISHED
    assert (await acme.preview()).total == invoice.total
    explained = await invoices_pb2_grpc.InvoicesServiceStub(acme.publisher).ExplainEvent(
        invoices_pb2.ExplainEventRequest(tenant_id=TENANT, event_id=acme.event_id)
    )
    assert {use.invoice_id for use in explained.uses} == {invoice.invoice_id}
    assert await acme.gaps() == []
