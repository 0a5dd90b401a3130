"""Fault 10: every RPC of every service is asked by one tenant for what another one has."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

import psycopg
import pytest
import stripe
from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from meterline_dev.mesh import SERVICES, Mesh
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc, tenants_pb2, tenants_pb2_grpc
from meterline_protos.ingest.v1 import (
    capture_pb2_grpc,
    catalogue_pb2,
    catalogue_pb2_grpc,
    corrections_pb2,
    corrections_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
    timers_pb2,
    timers_pb2_grpc,
)
from meterline_protos.publisher.v1 import prices_pb2, prices_pb2_grpc, publications_pb2, publications_pb2_grpc

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import settled
from tests.fault.strangers import OPERATORS, Belongings, Filler, Rpc, all_rpcs, answers, texts_of
from tests.support.capture import Sample, rows
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

VICTIM: Final = "acme"
STRANGER: Final = "bolt"
QUICK: Final = {"aggregate": {"METERLINE_EMIT_SECONDS": "0.2"}}
# What answers with numbers of what was asked, with bytes, or with what it was asked about.
NUMBERS: Final = {
    "aggregate.v1.UsageService/PreviewChanges",
    "identity.v1.CredentialsService/GetSigningKeys",
    "aggregate.v1.ReconciliationService/Compare",
    "ingest.v1.EventsService/GetTotals",
    "ingest.v1.LimitsService/GetTenantLimits",
}
# Tables and columns that change by themselves: what a service notes of its own work.
RESTLESS: Final = {"tenants"}
RESTLESS_COLUMNS: Final = {"data_keys": ["sealed"]}


async def fill(mesh: Mesh, tenant: str) -> Belongings:
    """Something of every kind that a tenant can have; answers how it is called."""
    mark = uuid.uuid4().hex[:12]
    samples = [
        Sample(
            id=event_id,
            subject=f"subject-{mark}-{at}",
            dimensions={"region": f"region-{mark}-{at}"},
            quantities={"units": str(7_000_000 + int(mark[:4], 16) * 10 + at)},
        )
        for at, event_id in enumerate([*(Sample().id for _ in range(5)), f"order-{mark}"])
    ]
    async with mesh.channel("ingest") as channel:
        answer = await capture_pb2_grpc.CaptureServiceStub(channel).Report(
            rows(*samples, tenant_id=tenant, source=f"source-{mark}"), timeout=20, wait_for_ready=True
        )
        assert answer.accepted == len(samples)
        await catalogue_pb2_grpc.CatalogueServiceStub(channel).PutEntries(
            catalogue_pb2.PutEntriesRequest(
                tenant_id=tenant,
                entries=[
                    catalogue_pb2.CatalogueEntry(
                        namespace="products", key=f"sku-{mark}", attributes={"title": f"title-{mark}"}
                    )
                ],
            )
        )
        who: dict[str, Any] = {"requested_by": f"ann-{mark}", "reason": f"reason-{mark}"}
        await retention_pb2_grpc.RetentionServiceStub(channel).PutLegalHold(
            retention_pb2.PutLegalHoldRequest(tenant_id=tenant, name=f"hold-{mark}", **who)
        )
        await privacy_pb2_grpc.PrivacyServiceStub(channel).RotateTenantKey(
            privacy_pb2.RotateTenantKeyRequest(tenant_id=tenant, **who)
        )
        own = event_types_pb2.EventType(
            name=f"own.{mark}",
            quantities=[event_types_pb2.QuantityDefinition(name="seconds", scale=6)],
            timer=event_types_pb2.TimerPolicy(
                quantity="seconds",
                abandoned_after_seconds=3_600,
                when_abandoned=event_types_pb2.ABANDONED_TIMER_COUNT_TO_HEARTBEAT,
            ),
        )
        await event_types_pb2_grpc.EventTypesServiceStub(channel).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=own, tenant_id=tenant, changed_by=f"ann-{mark}")
        )
    await correct(mesh, tenant, mark, samples[0], who)
    await lend_credentials(mesh, tenant, mark)
    called = Belongings()
    for name, text in (
        ("batch_id", answer.batch_id),
        ("key", f"sku-{mark}"),
        ("namespace", "products"),
        ("name", f"hold-{mark}"),
        ("name", f"own.{mark}"),
        ("timer_id", f"timer-{mark}"),
        *(("event_id", sample.id) for sample in samples),
    ):
        called.add(name, text)
    return called


async def correct(mesh: Mesh, tenant: str, mark: str, sample: Sample, who: Mapping[str, str]) -> None:
    """An event that was rejected, one that was amended, an import, a timer."""
    async with mesh.channel("ingest") as channel:
        bad = Sample(subject=f"subject-{mark}-bad", dimensions={f"unknown-{mark}": "1"})
        answer = await capture_pb2_grpc.CaptureServiceStub(channel).Report(
            rows(bad, tenant_id=tenant, source=f"source-{mark}")
        )
        assert answer.rejected == 1
        corrections = corrections_pb2_grpc.CorrectionsServiceStub(channel)
        changes = corrections_pb2.EventChanges(quantities={"units": "7"})
        await corrections.AmendEvent(
            corrections_pb2.AmendEventRequest(
                tenant_id=tenant,
                event_id=sample.id,
                changes=changes,
                requested_by=who["requested_by"],
                reason=who["reason"],
            )
        )
        brought = rows(Sample(subject=f"subject-{mark}-old")).rows
        await corrections.ImportEvents(
            corrections_pb2.ImportEventsRequest(
                tenant_id=tenant,
                source=f"import-{mark}",
                import_id=str(uuid.uuid4()),
                rows=brought,
                requested_by=who["requested_by"],
                reason=who["reason"],
            )
        )
        await timers_pb2_grpc.TimersServiceStub(channel).StartTimer(
            timers_pb2.StartTimerRequest(
                tenant_id=tenant, timer_id=f"timer-{mark}", source=f"source-{mark}", type=f"own.{mark}"
            )
        )


async def lend_credentials(mesh: Mesh, tenant: str, mark: str) -> None:
    async with mesh.channel("identity") as channel:
        stub = credentials_pb2_grpc.CredentialsServiceStub(channel)
        await stub.CreateApiKey(
            credentials_pb2.CreateApiKeyRequest(tenant_id=tenant, name=f"key-{mark}", permissions=["read"])
        )
        await stub.RotateSigningKey(credentials_pb2.RotateSigningKeyRequest(tenant_id=tenant))


async def put_prices(mesh: Mesh) -> None:
    async with mesh.channel("publisher") as channel:
        for meter, rate in (("calls", "0.01"), ("units", "0.0203")):
            body = struct_pb2.Struct()
            body.update({"model": "per_unit", "currency": "USD", "unit": rate})
            price = prices_pb2.Price(
                plan="basic", meter=meter, version=1, body=body, description=meter, billing_event_name=meter
            )
            price.effective_from.FromSeconds(int(time.time()) - 400 * 86_400)
            await prices_pb2_grpc.PricesServiceStub(channel).PutPrice(
                prices_pb2.PutPriceRequest(price=price), wait_for_ready=True
            )


async def bill(mesh: Mesh, tenant: str) -> None:
    """Makes a customer of the tenant's at the provider."""
    provider = stripe.StripeClient(mesh.stripe_key, base_addresses={"api": mesh.stripe_url})
    customer = await asyncio.to_thread(provider.v1.customers.create, {"name": tenant})
    async with mesh.channel("identity") as channel:
        await tenants_pb2_grpc.TenantsServiceStub(channel).UpdateTenant(
            tenants_pb2.UpdateTenantRequest(tenant_id=tenant, external_customer_id=customer.id)
        )


async def publish(mesh: Mesh, tenant: str) -> None:
    """So that there are calculations, an invoice and its lines."""
    async with mesh.channel("publisher") as channel:
        stub = publications_pb2_grpc.PublicationsServiceStub(channel)
        request = publications_pb2.PublishUsageRequest(tenant_id=tenant)
        request.at.GetCurrentTime()

        async def has_invoice() -> bool:
            try:
                return bool((await stub.PublishUsage(request, timeout=20)).invoice.lines)
            except aio.AioRpcError:
                return False  # its usage, or its customer, is on the way

        await eventually(has_invoice, seconds=30)


def readers() -> list[Rpc]:
    """RPCs that change nothing by themselves, by their names."""
    words = ("Get", "List", "Query", "Find", "Export", "Explain", "Preview", "Compare")
    return [rpc for rpc in all_rpcs() if rpc.method.name.startswith(words) and rpc.names_a_tenant]


async def ask_for_own(mesh: Mesh, tenant: str, known: Belongings) -> set[str]:
    """Adds what a tenant is told when it asks for its own; answers the RPCs that told it anything."""
    telling = set()
    rpcs = [rpc for rpc in readers() if rpc.service in mesh.options.services]
    for seed in range(3):
        filler = Filler(tenant, known.names(), seed)
        async for rpc, request, answer in answers(mesh, rpcs, filler, 8):
            said = {text for _, text in texts_of(request)}
            for name, text in texts_of(parsed(rpc, answer)):
                if text not in said:
                    telling.add(rpc.name)
                    known.add(name, text)
    return telling


def parsed(rpc: Rpc, answer: bytes) -> Message:
    """An answer, or an empty one where it was none. Those of a stream lie in one another."""
    message = GetMessageClass(rpc.method.output_type)()
    try:
        message.ParseFromString(answer)
    except DecodeError:
        return GetMessageClass(rpc.method.output_type)()
    return message


def state_of(mesh: Mesh, tenant: str) -> dict[str, list[str]]:
    """Every row of the tenant in every table of every service."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(mesh.admin_dsn()) as admin:
        row = admin.execute("SELECT tenant_id FROM ingest.tenants WHERE slug = %s", (tenant,)).fetchone()
        assert row is not None
        tables = admin.execute(
            "SELECT c.oid::regclass::text, c.relname FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
            " WHERE a.atttypid = 'int4'::regtype AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " ORDER BY 1"
        ).fetchall()
        for table, name in tables:
            if name not in RESTLESS:
                query = (
                    f"SELECT (to_jsonb(t) - %s::text[])::text FROM {table} t WHERE tenant_id = %s ORDER BY 1"
                )
                parameters = RESTLESS_COLUMNS.get(name, []), *row
                found[table] = [each for (each,) in admin.execute(query, parameters).fetchall()]
    return found


async def settled_state(mesh: Mesh, tenant: str) -> dict[str, list[str]]:
    """Once two looks are the same."""
    last: list[dict[str, list[str]]] = [{}]

    def same() -> bool:
        before, now = last[-1], state_of(mesh, tenant)
        last.append(now)
        return bool(now) and before == now

    await eventually(lambda: settled(mesh), seconds=60)
    await eventually(same, seconds=60)
    return last[-1]


async def told_to_a_stranger(mesh: Mesh, rounds: int) -> tuple[dict[str, set[str]], set[str], set[str]]:
    """What was told by which RPC, the RPCs that tell the victim itself, and tables where its rows changed."""
    mine, theirs = await fill(mesh, STRANGER), await fill(mesh, VICTIM)
    if "publisher" in mesh.options.services:
        await put_prices(mesh)
        await eventually(lambda: settled(mesh), seconds=60)
        await bill(mesh, STRANGER)
        await bill(mesh, VICTIM)
        await publish(mesh, STRANGER)
        await publish(mesh, VICTIM)
    await ask_for_own(mesh, STRANGER, mine)
    telling = await ask_for_own(mesh, VICTIM, theirs)
    secrets = {text: text.encode() for text in theirs.secrets() - mine.secrets()}
    assert len(secrets) > 10
    before = await settled_state(mesh, VICTIM)
    told: dict[str, set[str]] = {}
    rpcs = [rpc for rpc in all_rpcs() if rpc.names_a_tenant and rpc.service in mesh.options.services]
    async for rpc, _, answer in answers(mesh, rpcs, Filler(STRANGER, theirs.names(), 10), rounds):
        if found := {text for text, raw in secrets.items() if raw in answer}:
            told.setdefault(rpc.name, set()).update(found)
    after = await settled_state(mesh, VICTIM)
    return told, telling, {table for table in before | after if before.get(table) != after.get(table)}


@pytest.mark.req("T4.1")
def test_every_rpc_names_its_tenant_or_says_why_not() -> None:
    unnamed = {rpc.name for rpc in all_rpcs() if not rpc.names_a_tenant}
    assert unnamed == set(OPERATORS)


@pytest.mark.req("T4.1", "X7")
async def test_nothing_of_another_tenant_is_told_or_changed(start_mesh: MakeMesh, lengths: Lengths) -> None:
    async with start_mesh(services=SERVICES, environment=QUICK) as mesh:
        told, telling, changed = await told_to_a_stranger(mesh, 8 * lengths.rounds)
    assert told == {}
    assert changed == set()
    # Else it would prove nothing: most of what reads has told the victim something.
    assert {rpc.name for rpc in readers()} - telling <= NUMBERS


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_a_service_that_does_not_ask_whose_it_is_is_caught(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.tenant_blind"]}
    async with start_mesh(services=("identity", "ingest", "aggregate"), programs=programs) as mesh:
        told, _, _ = await told_to_a_stranger(mesh, 8 * lengths.rounds)
    assert "ingest.v1.EventsService/GetEvent" in told
