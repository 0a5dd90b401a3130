"""Creates one object of every kind for a tenant, through the API."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any

import stripe
from grpc import aio
from meterline_dev.mesh import Mesh
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
from meterline_protos.publisher.v1 import publications_pb2, publications_pb2_grpc

from tests.fault.foreign_requests import Belongings
from tests.support.capture import Sample, rows
from tests.support.polling import eventually


async def fill(mesh: Mesh, tenant: str) -> Belongings:
    """Creates an object of every kind that a tenant can have; returns their names."""
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
            quantities=[event_types_pb2.QuantityDefinition(name="own.seconds", scale=6)],
            timer=event_types_pb2.TimerPolicy(
                quantity="own.seconds",
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
    """Makes a rejected event, an amended event, an import and a timer."""
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


async def bill(mesh: Mesh, tenant: str) -> None:
    """Creates the tenant's customer at the billing provider."""
    provider = stripe.StripeClient(mesh.stripe_key, base_addresses={"api": mesh.stripe_url})
    customer = await asyncio.to_thread(provider.v1.customers.create, {"name": tenant})
    async with mesh.channel("identity") as channel:
        await tenants_pb2_grpc.TenantsServiceStub(channel).UpdateTenant(
            tenants_pb2.UpdateTenantRequest(tenant_id=tenant, external_customer_id=customer.id)
        )


async def publish(mesh: Mesh, tenant: str) -> None:
    """Publishes, which creates calculations, an invoice and its lines."""
    async with mesh.channel("publisher") as channel:
        stub = publications_pb2_grpc.PublicationsServiceStub(channel)
        request = publications_pb2.PublishUsageRequest(tenant_id=tenant)
        request.at.GetCurrentTime()

        async def has_invoice() -> bool:
            try:
                return bool((await stub.PublishUsage(request, timeout=20)).invoice.lines)
            except aio.AioRpcError:
                return False  # its usage or its customer has not arrived yet

        await eventually(has_invoice, seconds=30)
