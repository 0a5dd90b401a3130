"""Objects that valid requests name: a tenant with all kinds of them, and tenants for destructive requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from meterline_dev.mesh import Mesh
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc
from meterline_protos.ingest.v1 import (
    corrections_pb2,
    corrections_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
    quarantine_pb2,
    quarantine_pb2_grpc,
)
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from tests.fault.load import prepare, wait_until_settled
from tests.fault.tenant_objects import bill, fill, publish
from tests.support.credentials import SignedClient

TENANT: Final = "fuzzed"
# Tenants whose keys, state, limits and data the requests delete, so that other requests still succeed.
SPENT: Final = "spent"
# Kinds of objects that are requested with the tenant `TENANT`.
FOREIGN: Final = "foreign"
OWN_TYPE: Final = "own.fuzzed"

WHO: Final = {"requested_by": "ann", "reason": "because"}


@dataclass(frozen=True)
class World:
    """The names in the requests."""

    client: SignedClient
    event_id: str
    batch_id: str
    correction_id: str
    import_id: str
    quarantine_id: str
    api_key_id: str
    signing_key_id: str
    spent_signing_key_id: str
    invoice_id: str
    line_id: str
    message_id: str
    accepted: bytes
    own_type: str
    timer_id: str
    hold: str
    foreign: tuple[str, ...]


async def build(mesh: Mesh) -> World:
    """Creates three tenants with objects of every kind, before other load begins."""
    await prepare(mesh, (TENANT, SPENT, FOREIGN))
    await _put_own_type(mesh)
    mine, theirs = await fill(mesh, TENANT), await fill(mesh, FOREIGN)
    await wait_until_settled(mesh)
    await bill(mesh, TENANT)
    await publish(mesh, TENANT)
    texts = mine.by_field
    mark = next(iter(texts["timer_id"])).removeprefix("timer-")
    event_id = next(text for text in sorted(texts["event_id"]) if not text.startswith("order"))
    batch_id = next(iter(texts["batch_id"]))
    message_id, payload = _message_of(mesh, batch_id)
    correction_id, import_id, quarantine_id = await _made(mesh)
    client, api_key_id, signing_key_id, spent = await _credentials(mesh)
    invoice = await _invoice(mesh)
    return World(
        client=client,
        event_id=event_id,
        batch_id=batch_id,
        correction_id=correction_id,
        import_id=import_id,
        quarantine_id=quarantine_id,
        api_key_id=api_key_id,
        signing_key_id=signing_key_id,
        spent_signing_key_id=spent,
        invoice_id=invoice.invoice_id,
        line_id=invoice.lines[0].line_id,
        message_id=message_id,
        accepted=payload,
        own_type=f"own.{mark}",
        timer_id=f"timer-{mark}",
        hold=f"hold-{mark}",
        foreign=tuple(sorted(text for each in theirs.by_field.values() for text in each)),
    )


async def _put_own_type(mesh: Mesh) -> None:
    """Creates the type before a meter refers to it. Valid requests extend it."""
    own = event_types_pb2.EventType(
        name=OWN_TYPE,
        quantities=[event_types_pb2.QuantityDefinition(name="own.seconds", scale=6)],
        dimensions=[event_types_pb2.DimensionDefinition(name="region", values=["eu", "us"])],
    )
    async with mesh.channel("ingest") as channel:
        await event_types_pb2_grpc.EventTypesServiceStub(channel).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=own, tenant_id=TENANT, changed_by="ann")
        )


def _message_of(mesh: Mesh, batch_id: str) -> tuple[str, bytes]:
    """The message that carried a batch."""
    with psycopg.connect(mesh.admin_dsn()) as admin:
        row = admin.execute(
            "SELECT o.message_id, o.payload FROM ingest.outbox o JOIN ingest.batches b USING (message_id)"
            " WHERE b.batch_id = %s",
            (batch_id,),
        ).fetchone()
    assert row is not None
    return str(row[0]), bytes(row[1])


async def _made(mesh: Mesh) -> tuple[str, str, str]:
    """Makes a correction, an import, and a rejected event."""
    async with mesh.channel("ingest") as channel:
        corrections = corrections_pb2_grpc.CorrectionsServiceStub(channel)
        made = await corrections.ListCorrections(corrections_pb2.ListCorrectionsRequest(tenant_id=TENANT))
        imports = await corrections.ListImports(corrections_pb2.ListImportsRequest(tenant_id=TENANT))
        held = await quarantine_pb2_grpc.QuarantineServiceStub(channel).ListQuarantined(
            quarantine_pb2.ListQuarantinedRequest(tenant_id=TENANT)
        )
    return (
        made.corrections[0].correction_id,
        imports.imports[0].import_id,
        held.entries[0].quarantine_id,
    )


async def _credentials(mesh: Mesh) -> tuple[SignedClient, str, str, str]:
    async with mesh.channel("identity") as channel:
        stub = credentials_pb2_grpc.CredentialsServiceStub(channel)
        key = await stub.CreateApiKey(
            credentials_pb2.CreateApiKeyRequest(tenant_id=SPENT, name="a key", permissions=["read"])
        )
        keys = await stub.ListSigningKeys(credentials_pb2.ListSigningKeysRequest(tenant_id=TENANT))
        spent = await stub.RotateSigningKey(credentials_pb2.RotateSigningKeyRequest(tenant_id=SPENT))
        issued = await stub.IssueCaptureConfig(
            credentials_pb2.IssueCaptureConfigRequest(
                tenant_id=TENANT, actor="subject", types=["api.request"], source="signed"
            )
        )
    return (
        SignedClient(issued.config, issued.client_secret, issued.key_id),
        key.api_key.key_id,
        keys.signing_keys[0].key_id,
        spent.signing_key.key_id,
    )


async def _invoice(mesh: Mesh) -> invoices_pb2.Invoice:
    async with mesh.channel("publisher") as channel:
        answer = await invoices_pb2_grpc.InvoicesServiceStub(channel).ListInvoices(
            invoices_pb2.ListInvoicesRequest(tenant_id=TENANT)
        )
    found: invoices_pb2.Invoice = answer.invoices[0]
    return found
