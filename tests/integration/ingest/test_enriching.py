"""Events are enriched from the catalogue, and repeats are compared with the sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc.aio import AioRpcError
from meterline.packing import unpack_unsigned
from meterline_protos.ingest.v1 import (
    capture_pb2,
    catalogue_pb2,
    catalogue_pb2_grpc,
    event_types_pb2,
    events_pb2,
)

from tests.support.capture import RunningIngest, Sample, columns, published, rows, stored

pytestmark = [pytest.mark.req("O2"), pytest.mark.asyncio(loop_scope="module")]

Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


async def put_cart_type(
    ingest: RunningIngest, when_missing: Any = event_types_pb2.MISSING_ENTRY_QUARANTINE
) -> None:
    pb = event_types_pb2
    await ingest.types.PutEventType(
        pb.PutEventTypeRequest(
            event_type=pb.EventType(
                name="add_to_cart",
                quantities=[pb.QuantityDefinition(name="units", scale=2)],
                dimensions=[pb.DimensionDefinition(name="category")],
                properties=[
                    pb.PropertyDefinition(name=name, kind=pb.PROPERTY_KIND_TEXT)
                    for name in ("product", "title", "seller")
                ],
                enrichments=[
                    pb.Enrichment(
                        namespace="products",
                        key="product",
                        attributes=[
                            pb.EnrichedAttribute(attribute="category"),
                            pb.EnrichedAttribute(attribute="name", target="title"),
                            pb.EnrichedAttribute(attribute="seller"),
                        ],
                        when_missing=when_missing,
                    )
                ],
                for_identity=True,
            )
        )
    )


async def put_product(ingest: RunningIngest, key: str = "p1", **attributes: str) -> int:
    entry = catalogue_pb2.CatalogueEntry(namespace="products", key=key, attributes=attributes)
    request = catalogue_pb2.PutEntriesRequest(tenant_id=ingest.tenant, entries=[entry])
    return (await catalogue(ingest).PutEntries(request)).changed


def catalogue(ingest: RunningIngest) -> catalogue_pb2_grpc.CatalogueServiceAsyncStub:
    return catalogue_pb2_grpc.CatalogueServiceStub(ingest.channel)


def cart(product: str = "p1", **more: Any) -> Sample:
    return Sample(type="add_to_cart", dimensions={}, properties={"product": product}, **more)


def details(ingest: RunningIngest) -> list[tuple[Any, ...]]:
    query = "SELECT properties, flags, sources FROM event_details WHERE tenant_id = %s ORDER BY event_id"
    return ingest.database.read("ingest", query, ingest.number)


@both_forms
async def test_product_id_is_enriched_with_category_name_and_seller(
    ingest: RunningIngest, form: Form
) -> None:
    await put_cart_type(ingest)
    await put_product(ingest, category="shoes", name="Boot", seller="Ann")

    response = await ingest.report(form(cart(), cart(), tenant_id=ingest.tenant))

    assert response.accepted == 2
    enriched = {"product": "p1", "title": "Boot", "seller": "Ann"}
    assert details(ingest) == [(enriched, None, ["products/p1@1"])] * 2
    (fact,) = await published(ingest, 1)
    (series,) = fact.series
    assert series.for_identity
    assert [(each.name, each.value) for each in series.dimensions] == [("category", "shoes")]
    assert {each.name: list(each.values) for each in fact.properties} == {
        "product": ["p1"],
        "seller": ["Ann"],
        "title": ["Boot"],
    }
    assert all(unpack_unsigned(each.index, 2).tolist() == [1, 1] for each in fact.properties)


@both_forms
async def test_properties_of_some_rows_are_published_by_row(ingest: RunningIngest, form: Form) -> None:
    await put_cart_type(ingest, event_types_pb2.MISSING_ENTRY_ACCEPT)
    await ingest.report(
        form(
            cart("x"), Sample(), cart("y"), Sample(type="add_to_cart", dimensions={}), tenant_id=ingest.tenant
        )
    )

    (fact,) = await published(ingest, 1)

    (product,) = fact.properties
    index = unpack_unsigned(product.index, 4)
    values = np.array(["", *product.values])[index]
    assert values.tolist() == ["x", "", "y", ""]


@both_forms
async def test_missing_entry_rejects_only_its_event(ingest: RunningIngest, form: Form) -> None:
    await put_cart_type(ingest)
    await put_product(ingest, "known", category="c")

    response = await ingest.report(form(cart("unknown"), cart("known"), tenant_id=ingest.tenant))

    assert response.accepted == 1
    (problem,) = response.outcomes
    assert (problem.index, problem.reason, problem.field) == (
        0,
        "CATALOGUE_ENTRY_MISSING",
        "properties.product",
    )


async def test_event_with_missing_entry_can_be_accepted_with_a_flag(ingest: RunningIngest) -> None:
    await put_cart_type(ingest, event_types_pb2.MISSING_ENTRY_ACCEPT)
    assert (await ingest.report(ingest.rows(cart("unknown")))).accepted == 1
    assert details(ingest) == [({"product": "unknown"}, ["unenriched"], None)]


@pytest.mark.req("T1.2")
@both_forms
async def test_repeat_after_change_of_the_entry_is_no_conflict(ingest: RunningIngest, form: Form) -> None:
    await put_cart_type(ingest)
    await put_product(ingest, category="shoes")
    sample = cart()
    await ingest.report(form(sample, tenant_id=ingest.tenant))
    await put_product(ingest, category="boots")

    response = await ingest.report(form(sample, tenant_id=ingest.tenant))

    assert (response.accepted, response.duplicate, response.conflict) == (0, 1, 0)
    assert details(ingest) == [({"product": "p1"}, None, ["products/p1@1"])]
    fresh = await ingest.report(form(cart(), tenant_id=ingest.tenant))
    assert fresh.accepted == 1
    assert sorted(each[2][0] for each in details(ingest)) == ["products/p1@1", "products/p1@2"]


@pytest.mark.req("T1.2")
@both_forms
async def test_repeat_with_other_properties_is_a_conflict(ingest: RunningIngest, form: Form) -> None:
    await put_cart_type(ingest, event_types_pb2.MISSING_ENTRY_ACCEPT)
    sample = cart("p1")
    first = await ingest.report(form(sample, tenant_id=ingest.tenant))
    other = cart("p2", id=sample.id, time_us=sample.time_us)

    response = await ingest.report(form(other, sample, tenant_id=ingest.tenant))

    assert (first.accepted, response.conflict, response.duplicate) == (1, 1, 1)
    conflict = next(each for each in response.outcomes if each.reason == "CONFLICT")
    assert len(conflict.stored_digest) == len(conflict.sent_digest) == 32
    assert conflict.stored_digest != conflict.sent_digest
    assert await stored(ingest) == 1


@pytest.mark.req("T1.2")
@both_forms
async def test_repeat_after_its_type_gained_properties_is_a_duplicate(
    ingest: RunningIngest, form: Form
) -> None:
    name = f"gained.{form.__name__}"
    await ingest.put_type(name)
    sample = Sample(type=name)
    await ingest.report(form(sample, tenant_id=ingest.tenant))
    await ingest.types.PutEventType(
        event_types_pb2.PutEventTypeRequest(
            event_type=event_types_pb2.EventType(
                name=name,
                quantities=[event_types_pb2.QuantityDefinition(name="units", scale=2)],
                dimensions=[event_types_pb2.DimensionDefinition(name="region")],
                properties=[
                    event_types_pb2.PropertyDefinition(name="note", kind=event_types_pb2.PROPERTY_KIND_TEXT)
                ],
            )
        )
    )
    assert (await ingest.report(form(sample, tenant_id=ingest.tenant))).duplicate == 1


@pytest.mark.req("T1.5")
@both_forms
async def test_time_of_a_skewed_clock_is_corrected(ingest: RunningIngest, form: Form) -> None:
    slow = 600_000_000
    sample = Sample()
    ago = sample.time_us - slow - 60_000_000
    request = form(Sample(id=sample.id, time_us=ago), tenant_id=ingest.tenant)
    request.sent_at.FromMicroseconds(sample.time_us - slow)

    await ingest.report(request)

    found = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
    )
    corrected = found.event.time.ToMicroseconds()
    # The event happened a minute before its receipt.
    received = found.batch.received_at.ToMicroseconds()
    assert received - corrected == pytest.approx(60_000_000, abs=1)
    # A repeat after the clock was fixed is a duplicate.
    again = form(Sample(id=sample.id, time_us=ago), tenant_id=ingest.tenant)
    again.sent_at.GetCurrentTime()
    response = await ingest.report(again)
    assert (response.duplicate, response.conflict) == (1, 0)


@pytest.mark.req("T1.5")
@both_forms
async def test_corrected_time_is_not_after_the_receipt(ingest: RunningIngest, form: Form) -> None:
    sample = Sample()
    request = form(Sample(id=sample.id, time_us=sample.time_us - 100_000_000), tenant_id=ingest.tenant)
    request.sent_at.FromMicroseconds(sample.time_us - 600_000_000)

    first = await ingest.report(request)
    second = await ingest.report(request)

    assert (first.accepted, second.duplicate) == (1, 1)
    found = await ingest.events.GetEvent(
        events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
    )
    assert found.event.time == found.batch.received_at


async def test_entries_are_versioned_listed_and_deleted(ingest: RunningIngest) -> None:
    assert await put_product(ingest, "a", name="A") == 1
    assert await put_product(ingest, "a", name="A") == 0
    assert await put_product(ingest, "a", name="B") == 1
    for key in ("c", "b"):
        await put_product(ingest, key)
    listing = catalogue_pb2.ListEntriesRequest(tenant_id=ingest.tenant, namespace="products", page_size=2)
    page = await catalogue(ingest).ListEntries(listing)
    assert [(each.key, each.version) for each in page.entries] == [("a", 2), ("b", 1)]
    listing.page_token = page.next_page_token
    assert [each.key for each in (await catalogue(ingest).ListEntries(listing)).entries] == ["c"]

    deletion = catalogue_pb2.DeleteEntriesRequest(
        tenant_id=ingest.tenant, namespace="products", keys=["a", "zz"]
    )
    assert (await catalogue(ingest).DeleteEntries(deletion)).deleted == 1
    twice = catalogue_pb2.DeleteEntriesRequest(tenant_id=ingest.tenant, namespace="products", keys=["b", "b"])
    with pytest.raises(AioRpcError) as repeated:
        await catalogue(ingest).DeleteEntries(twice)
    assert repeated.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    wanted = catalogue_pb2.GetEntryRequest(tenant_id=ingest.tenant, namespace="products", key="a")
    with pytest.raises(AioRpcError) as missing:
        await catalogue(ingest).GetEntry(wanted)
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND
    await put_product(ingest, "a", name="C")
    assert (await catalogue(ingest).GetEntry(wanted)).entry.version == 4


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        ("entries.namespace", {"namespace": "-1", "key": "k"}),
        ("entries[].key", {"namespace": "n", "key": ""}),
        ("entries[k].attributes", {"namespace": "n", "key": "k", "attributes": {"": "x"}}),
        ("entries[k].attributes.a", {"namespace": "n", "key": "k", "attributes": {"a": "x" * 257}}),
    ],
)
async def test_invalid_entries_are_refused_with_their_field(
    ingest: RunningIngest, field: str, entry: dict[str, Any]
) -> None:
    request = catalogue_pb2.PutEntriesRequest(
        tenant_id=ingest.tenant, entries=[catalogue_pb2.CatalogueEntry(**entry)]
    )
    with pytest.raises(AioRpcError) as refused:
        await catalogue(ingest).PutEntries(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(f"{field}: ")


async def test_concurrent_puts_and_deletions_keep_version_numbers(
    ingest: RunningIngest,
) -> None:
    stub = catalogue_pb2_grpc.CatalogueServiceStub(ingest.channel)

    def put(title: int) -> Any:
        entry = catalogue_pb2.CatalogueEntry(namespace="products", key="k", attributes={"title": str(title)})
        return stub.PutEntries(catalogue_pb2.PutEntriesRequest(tenant_id=ingest.tenant, entries=[entry]))

    def delete() -> Any:
        request = catalogue_pb2.DeleteEntriesRequest(
            tenant_id=ingest.tenant, namespace="products", keys=["k"]
        )
        return stub.DeleteEntries(request)

    changes = 0
    for turn in range(20):
        answers = await asyncio.gather(*(call for at in range(4) for call in (put(turn * 4 + at), delete())))
        changes += sum(getattr(answer, "changed", 0) + getattr(answer, "deleted", 0) for answer in answers)
    await put(-1)
    request = catalogue_pb2.GetEntryRequest(tenant_id=ingest.tenant, namespace="products", key="k")
    assert (await stub.GetEntry(request)).entry.version == changes + 1
