"""Corrections of events with properties, also sealed ones, and with attributes from the catalogue."""

from __future__ import annotations

import json

import grpc
import psycopg
import pytest
from grpc import aio
from meterline_ingest.capture.details import to_text
from meterline_ingest.corrections.store.current import CORRECTIONS, SEALED
from meterline_ingest.corrections.store.sealed import SealedCorrections
from meterline_ingest.keys.rotation import rotate
from meterline_ingest.keys.rules import Resealed
from meterline_protos.ingest.v1 import (
    catalogue_pb2,
    catalogue_pb2_grpc,
    event_types_pb2,
    privacy_pb2,
    privacy_pb2_grpc,
)
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from tests.support.capture import RunningIngest, Sample, rows
from tests.support.corrections_calls import WHO, Corrections
from tests.support.databases import TestDatabase
from tests.support.vaults import CHANGE, OpenReplica

pytestmark = pytest.mark.req("T3.4", "T4.3")

PHONE, OTHER_PHONE = "+1 555 0100 secret", "+1 555 0199 secret"


@pytest.fixture
async def corrections(ingest: RunningIngest) -> Corrections:
    text = event_types_pb2.PROPERTY_KIND_TEXT
    definition = event_types_pb2.EventType(
        name="call",
        quantities=[event_types_pb2.QuantityDefinition(name="units", scale=2)],
        dimensions=[
            event_types_pb2.DimensionDefinition(name="customer"),
            event_types_pb2.DimensionDefinition(name="tier"),
        ],
        properties=[
            event_types_pb2.PropertyDefinition(name="note", kind=text),
            event_types_pb2.PropertyDefinition(name="region", kind=text),
            event_types_pb2.PropertyDefinition(name="phone", kind=text, sensitive=True, max_length=20),
        ],
        enrichments=[
            event_types_pb2.Enrichment(
                namespace="customers",
                key="customer",
                attributes=[
                    event_types_pb2.EnrichedAttribute(attribute="tier"),
                    event_types_pb2.EnrichedAttribute(attribute="region"),
                ],
                when_missing=event_types_pb2.MISSING_ENTRY_ACCEPT,
            )
        ],
    )
    await ingest.types.PutEventType(event_types_pb2.PutEventTypeRequest(event_type=definition))
    entries = [
        catalogue_pb2.CatalogueEntry(namespace="customers", key=key, attributes=attributes)
        for key, attributes in (("c1", {"tier": "gold", "region": "eu"}), ("c2", {"tier": "iron"}))
    ]
    await catalogue_pb2_grpc.CatalogueServiceStub(ingest.channel).PutEntries(
        catalogue_pb2.PutEntriesRequest(tenant_id="acme", entries=entries)
    )
    return Corrections(ingest)


async def report(ingest: RunningIngest, **properties: str) -> str:
    sample = Sample(type="call", dimensions={"customer": "c1"})
    request = rows(sample)
    request.rows.events[0].properties.update({"phone": PHONE} | properties)
    assert (await ingest.report(request)).accepted == 1
    return sample.id


def sealed(database: TestDatabase) -> dict[int, bytes]:
    """The sealed values of corrections, by revision."""
    with psycopg.connect(database.admin_dsn) as connection:
        found = connection.execute("SELECT revision, sealed FROM ingest.corrections WHERE sealed IS NOT NULL")
        return dict(found.fetchall())


async def opened(replica_of: OpenReplica, database: TestDatabase, event_id: str) -> dict[int, dict[str, str]]:
    """The sensitive properties of each revision with any, unsealed."""
    keyring = await (await replica_of(database)).vault.keyring(None, 1)
    row = bytes.fromhex(event_id.replace("-", ""))
    return {
        revision: json.loads(keyring.unseal(CORRECTIONS, SEALED, row + revision.to_bytes(4, "big"), value))
        for revision, value in sealed(database).items()
    }


async def test_corrections_keep_sensitive_properties_sealed(
    ingest: RunningIngest, corrections: Corrections, database: TestDatabase, open_replica: OpenReplica
) -> None:
    event_id = await report(ingest, note="first")

    await corrections.amend(event_id, pb.EventChanges(quantities={"units": "2"}))
    await corrections.amend(event_id, pb.EventChanges(properties={"phone": OTHER_PHONE}))
    await corrections.amend(event_id, pb.EventChanges(properties={"note": "second"}))
    last = await corrections.amend(event_id, pb.EventChanges(removed=["properties.phone"]))

    found = await opened(open_replica, database, event_id)
    assert found == {1: {"phone": PHONE}, 2: {"phone": OTHER_PHONE}, 3: {"phone": OTHER_PHONE}}
    texts = [each.SerializeToString() for each in await corrections.listed()]
    with psycopg.connect(database.admin_dsn) as connection:
        texts += [
            repr(row).encode()
            for table in ("corrections", "correction_requests", "audit_log", "outbox")
            for row in connection.execute(f"SELECT * FROM ingest.{table}").fetchall()
        ]
    assert not [each for each in texts if b"secret" in each]
    assert list(last.correction.before.sealed_properties) == ["phone"]
    assert list(last.correction.after.sealed_properties) == []
    assert dict(last.correction.after.properties) == {"note": "second", "region": "eu"}


async def test_unchanged_sensitive_property_makes_no_correction(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    event_id = await report(ingest)
    same = await corrections.amend(event_id, pb.EventChanges(properties={"phone": PHONE}))
    assert not same.HasField("correction")
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.amend(event_id, pb.EventChanges(properties={"phone": PHONE * 2}))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "secret" not in str(caught.value.details())


async def test_amended_event_is_enriched_from_the_catalogue(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    event_id = await report(ingest)

    other = (
        await corrections.amend(event_id, pb.EventChanges(dimensions={"customer": "c2"}))
    ).correction.after
    unknown = (
        await corrections.amend(event_id, pb.EventChanges(dimensions={"customer": "c9"}))
    ).correction.after

    assert dict(other.dimensions) == {"customer": "c2", "tier": "iron"}
    assert "region" not in other.properties
    assert (dict(unknown.dimensions), list(unknown.flags)) == ({"customer": "c9"}, ["unenriched"])


async def test_sealed_properties_are_resealed_with_a_new_key(
    ingest: RunningIngest, corrections: Corrections, database: TestDatabase, open_replica: OpenReplica
) -> None:
    event_id = await report(ingest)
    await corrections.amend(event_id, pb.EventChanges(quantities={"units": "2"}))
    before, column = sealed(database)[1], SealedCorrections()
    replica = await open_replica(database)
    row = bytes.fromhex(event_id.replace("-", "")) + (1).to_bytes(4, "big")
    await rotate(replica.store, 1, 0, CHANGE)
    replica.timer.memory_passes()
    keyring = await replica.vault.keyring(None, 1)

    async with replica.database.connection([1]) as connection:
        found = await column.earlier(connection, 1, b"\xff", b"", 10)
        assert found == [(row, before)]
        assert await column.earlier(connection, 1, b"\xff", row, 10) == []
        after = keyring.seal(CORRECTIONS, SEALED, row, to_text({"phone": PHONE}))
        assert await column.replace(connection, 1, [Resealed(row, before, after)]) == 1
        assert await column.replace(connection, 1, [Resealed(row, before, b"late")]) == 0
        await connection.commit()

    assert sealed(database)[1] == after


async def test_event_of_shredded_tenant_can_be_retracted_but_not_amended(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    event_id = await report(ingest)
    await privacy_pb2_grpc.PrivacyServiceStub(ingest.channel).ShredTenant(
        privacy_pb2.ShredTenantRequest(tenant_id="acme", **WHO)
    )

    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.amend(event_id, pb.EventChanges(quantities={"units": "2"}))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert (await corrections.retract(event_id)).correction.kind == pb.CORRECTION_KIND_RETRACTED
