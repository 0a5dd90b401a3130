"""The registry of event types: versions, allowed changes, and types of tenants."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import pytest
from grpc.aio import AioRpcError
from meterline_protos.ingest.v1 import event_types_pb2 as pb
from meterline_protos.ingest.v1 import events_pb2

from tests.support.capture import RunningIngest, Sample, new_tenant

pytestmark = [pytest.mark.req("O1", "O2"), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


def event_type(name: str, quantity: pb.QuantityDefinition | None = None, **more: object) -> pb.EventType:
    quantities = [quantity or pb.QuantityDefinition(name="units", scale=2)]
    return pb.EventType(name=name, quantities=quantities, **more)  # type: ignore[arg-type]


async def put(
    ingest: RunningIngest, wanted: pb.EventType, tenant_id: str = "", by: str = "ann"
) -> pb.EventType:
    request = pb.PutEventTypeRequest(event_type=wanted, tenant_id=tenant_id, changed_by=by)
    return (await ingest.types.PutEventType(request)).event_type


async def names(ingest: RunningIngest, tenant_id: str = "") -> list[str]:
    response = await ingest.types.ListEventTypes(pb.ListEventTypesRequest(tenant_id=tenant_id))
    return [each.name for each in response.event_types]


async def versions(ingest: RunningIngest, name: str, tenant_id: str = "") -> Sequence[pb.EventTypeVersion]:
    request = pb.ListEventTypeVersionsRequest(name=name, tenant_id=tenant_id)
    return (await ingest.types.ListEventTypeVersions(request)).versions


async def outcome(ingest: RunningIngest, sample: Sample) -> str:
    """The reason of the rejection; empty if the event was accepted."""
    response = await ingest.report(ingest.rows(sample))
    return "" if response.accepted else response.outcomes[0].reason


FULL = pb.EventType(
    name="add_to_cart",
    quantities=[pb.QuantityDefinition(name="seconds", scale=6, minimum="0.5", maximum="100")],
    dimensions=[pb.DimensionDefinition(name="category", values=["a", "b"], max_length=5)],
    subject_required=True,
    properties=[
        pb.PropertyDefinition(
            name="product", kind=pb.PROPERTY_KIND_TEXT, required=True, values=["p"], max_length=64
        ),
        pb.PropertyDefinition(
            name="age", kind=pb.PROPERTY_KIND_INTEGER, minimum="1", maximum="9", max_length=3
        ),
    ],
    enrichments=[
        pb.Enrichment(
            namespace="products",
            key="product",
            attributes=[pb.EnrichedAttribute(attribute="category", target="category")],
            when_missing=pb.MISSING_ENTRY_ACCEPT,
        )
    ],
    for_identity=True,
    timer=pb.TimerPolicy(
        quantity="seconds",
        abandoned_after_seconds=60,
        when_abandoned=pb.ABANDONED_TIMER_COUNT_TO_HEARTBEAT,
    ),
)


async def test_stored_type_equals_the_put_one(ingest: RunningIngest) -> None:
    assert await put(ingest, FULL) == FULL
    response = await ingest.types.ListEventTypes(pb.ListEventTypesRequest())
    assert FULL in response.event_types


async def test_every_change_makes_a_version_with_its_author(ingest: RunningIngest) -> None:
    await put(ingest, event_type("call"), by="ann")
    await put(ingest, event_type("call"), by="bob")
    await put(ingest, event_type("call", subject_required=True), by="cai")

    found = await versions(ingest, "call")

    assert [(each.version, each.changed_by, each.event_type.subject_required) for each in found] == [
        (1, "ann", False),
        (2, "cai", True),
    ]


async def test_changed_type_applies_to_new_events_only(ingest: RunningIngest) -> None:
    await put(ingest, event_type("narrowed"))
    nine = Sample(type="narrowed", dimensions={}, quantities={"units": "9"})
    assert await outcome(ingest, nine) == ""
    await put(ingest, event_type("narrowed", pb.QuantityDefinition(name="units", scale=2, maximum="5.50")))
    assert await outcome(ingest, Sample(type="narrowed", dimensions={}, quantities={"units": "5.50"})) == ""
    above = Sample(type="narrowed", dimensions={}, quantities={"units": "5.51"})
    assert await outcome(ingest, above) == "QUANTITY_ABOVE_MAXIMUM"
    # Accepted events stay, and their repeats are duplicates, though new ones would be rejected.
    response = await ingest.report(ingest.rows(nine))
    assert [each.reason for each in response.outcomes] == ["QUANTITY_ABOVE_MAXIMUM"]


def grown(name: str = "height", scale: int = 2, *, sensitive: bool = False, **more: object) -> pb.EventType:
    """A type with one quantity, which no other type has, and one property."""
    note = pb.PropertyDefinition(name="note", kind=pb.PROPERTY_KIND_TEXT, sensitive=sensitive)
    given = {"quantities": [pb.QuantityDefinition(name=name, scale=scale)], "properties": [note]} | more
    return pb.EventType(name="grown", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        grown(scale=3),
        grown("width"),
        grown(quantities=[]),
        grown(sensitive=True),
        grown(properties=[]),
    ],
    ids=["scale", "name", "quantity removed", "property made sensitive", "property removed"],
)
async def test_change_that_reinterprets_accepted_events_is_refused(
    ingest: RunningIngest, change: pb.EventType
) -> None:
    await put(ingest, grown())
    with pytest.raises(AioRpcError) as refused:
        await put(ingest, change)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_quantity_has_one_scale_in_all_types(ingest: RunningIngest) -> None:
    with pytest.raises(AioRpcError, match="scale 2"):
        await put(ingest, event_type("other", pb.QuantityDefinition(name="units", scale=3)))


@pytest.mark.req("T4.1")
async def test_type_of_a_tenant_applies_to_this_tenant_only(ingest: RunningIngest) -> None:
    other = await new_tenant(ingest)
    own = event_type("own.only", pb.QuantityDefinition(name="own.seats", scale=6))
    await put(ingest, own, tenant_id=ingest.tenant)

    sample = Sample(type="own.only", dimensions={}, quantities={"own.seats": "1.5"})
    assert await outcome(ingest, sample) == ""
    assert await outcome(other, sample) == "UNKNOWN_EVENT_TYPE"
    assert "own.only" in await names(ingest, ingest.tenant)
    assert "own.only" not in await names(ingest, other.tenant)
    assert "own.only" not in await names(ingest)
    with pytest.raises(AioRpcError) as unknown:
        await versions(ingest, "own.only", other.tenant)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.req("T4.1")
async def test_tenants_may_define_different_types_of_one_name(ingest: RunningIngest) -> None:
    other = await new_tenant(ingest)
    seats = pb.QuantityDefinition(name="own.seats", scale=6)
    await put(ingest, event_type("own.ours", seats), tenant_id=ingest.tenant)
    await put(ingest, event_type("own.ours", seats, subject_required=True), tenant_id=other.tenant)

    request = ingest.rows(
        Sample(type="own.ours", subject="", dimensions={}, quantities={"own.seats": "1"}),
        Sample(
            type="own.ours", subject="", dimensions={}, quantities={"own.seats": "1"}, tenant_id=other.tenant
        ),
    )
    response = await ingest.report(request)

    assert response.accepted == 1
    assert [(each.index, each.reason) for each in response.outcomes] == [(1, "SUBJECT_REQUIRED")]


@pytest.mark.req("T4.1")
@pytest.mark.parametrize(
    ("name", "quantity", "why"),
    [
        ("api.request", pb.QuantityDefinition(name="units", scale=2), "is the operator's"),
        ("own.mine", pb.QuantityDefinition(name="units", scale=3), "has scale 2"),
        ("own.mine", pb.QuantityDefinition(name="own.fresh", scale=2), "has scale 6"),
    ],
)
async def test_tenant_types_must_not_collide_with_operator_types(
    ingest: RunningIngest, name: str, quantity: pb.QuantityDefinition, why: str
) -> None:
    with pytest.raises(AioRpcError, match=why) as refused:
        await put(ingest, event_type(name, quantity), tenant_id=ingest.tenant)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.req("T4.1")
@pytest.mark.parametrize("first", ["operator", "tenant"])
async def test_tenant_types_do_not_restrict_the_operator(ingest: RunningIngest, first: str) -> None:
    name = f"flight.{first}"
    puts = [
        (event_type(name, pb.QuantityDefinition(name="miles", scale=2)), ""),
        (event_type(f"own.{name}", pb.QuantityDefinition(name="own.miles", scale=6)), ingest.tenant),
    ]
    for wanted, tenant_id in puts if first == "operator" else reversed(puts):
        await put(ingest, wanted, tenant_id)

    # One call, so that both events are in one message, each with its own scale.
    common = Sample(type=name, dimensions={}, quantities={"miles": "1234567890123.45"})
    own = Sample(type=f"own.{name}", dimensions={}, quantities={"own.miles": "0.000001"})
    assert (await ingest.report(ingest.rows(common, own))).accepted == 2
    for sample in (common, own):
        request = events_pb2.GetEventRequest(tenant_id=ingest.tenant, event_id=sample.id)
        assert dict((await ingest.events.GetEvent(request)).event.quantities) == sample.quantities


FLIGHT = event_type("flight.departed", pb.QuantityDefinition(name="miles", scale=2))
OWN_FLIGHT = event_type("own.flight.departed", pb.QuantityDefinition(name="own.miles", scale=6))


@pytest.mark.req("T4.1")
@pytest.mark.parametrize(
    ("wanted", "own", "field"),
    [
        (
            event_type("tenants.flight", pb.QuantityDefinition(name="own.miles", scale=6)),
            True,
            "event_type.name",
        ),
        (
            event_type("own.flight", pb.QuantityDefinition(name="feet", scale=6)),
            True,
            "event_type.quantities[feet].name",
        ),
        (event_type("own.operators", pb.QuantityDefinition(name="miles", scale=2)), False, "event_type.name"),
        (
            event_type("flight", pb.QuantityDefinition(name="own.miles", scale=6)),
            False,
            "event_type.quantities[own.miles].name",
        ),
    ],
    ids=["name", "quantity", "operator's name", "operator's quantity"],
)
async def test_names_of_tenant_types_need_a_prefix(
    ingest: RunningIngest, wanted: pb.EventType, own: bool, field: str
) -> None:
    with pytest.raises(AioRpcError) as refused:
        await put(ingest, wanted, ingest.tenant if own else "")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(f"{field}: ")
    # With the right owner each type is accepted.
    await put(ingest, FLIGHT)
    await put(ingest, OWN_FLIGHT, ingest.tenant)


@pytest.mark.req("T2.4")
async def test_definitions_of_a_tenant_are_limited_in_bytes(ingest: RunningIngest) -> None:
    values = [f"{at:0256}" for at in range(1_000)]
    large = [pb.DimensionDefinition(name=f"d{at}", values=values) for at in range(3)]
    await put(ingest, pb.EventType(name="own.large", dimensions=large), ingest.tenant)
    with pytest.raises(AioRpcError, match="bytes of all types") as refused:
        await put(ingest, pb.EventType(name="own.second", dimensions=large), ingest.tenant)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    # Types of the operator are not limited.
    await put(ingest, pb.EventType(name="large", dimensions=large))


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("event_type.name", event_type("-st")),
        (
            "event_type.properties.name",
            event_type("t", properties=[pb.PropertyDefinition(kind=pb.PROPERTY_KIND_TEXT)]),
        ),
        ("event_type.properties[p].kind", event_type("t", properties=[pb.PropertyDefinition(name="p")])),
        (
            "event_type.properties",
            event_type(
                "t",
                properties=[
                    pb.PropertyDefinition(name=f"p{n}", kind=pb.PROPERTY_KIND_TEXT) for n in range(33)
                ],
            ),
        ),
        (
            "event_type.enrichments[ns].key",
            event_type(
                "t",
                enrichments=[
                    pb.Enrichment(namespace="ns", key="k", when_missing=pb.MISSING_ENTRY_QUARANTINE)
                ],
            ),
        ),
        (
            "event_type.timer.quantity",
            event_type(
                "t",
                timer=pb.TimerPolicy(
                    quantity="units", abandoned_after_seconds=5, when_abandoned=pb.ABANDONED_TIMER_DISCARD
                ),
            ),
        ),
        (
            "event_type.quantities[units].minimum",
            event_type("t", pb.QuantityDefinition(name="units", scale=2, minimum="x")),
        ),
        (
            "event_type.dimensions[d].max_length",
            event_type("t", dimensions=[pb.DimensionDefinition(name="d", max_length=257)]),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_invalid_definitions_are_refused_with_their_field(
    ingest: RunningIngest, field: str, wanted: pb.EventType
) -> None:
    with pytest.raises(AioRpcError) as refused:
        await put(ingest, wanted)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(f"{field}: ")


@pytest.mark.req("T6.1")
async def test_description_covers_types_of_operator_and_tenants(ingest: RunningIngest) -> None:
    with pytest.raises(AioRpcError) as raised:
        await ingest.types.DescribeEventType(pb.DescribeEventTypeRequest(name="own.call"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    other = await new_tenant(ingest)
    for tenant, region in ((ingest.tenant, "eu"), (other.tenant, "us")):
        own = event_type(
            "own.call",
            pb.QuantityDefinition(name=f"own.{tenant}", scale=6),
            dimensions=[
                pb.DimensionDefinition(name="region", values=[region]),
                pb.DimensionDefinition(name=tenant),
            ],
        )
        await put(ingest, own, tenant_id=tenant)
    found = await ingest.types.DescribeEventType(pb.DescribeEventTypeRequest(name="own.call"))
    assert found == pb.DescribeEventTypeResponse(
        quantities=sorted([f"own.{ingest.tenant}", f"own.{other.tenant}"]),
        dimensions=[
            pb.DimensionDescription(name="region", values=["eu", "us"]),
            *(pb.DimensionDescription(name=tenant) for tenant in sorted([ingest.tenant, other.tenant])),
        ],
    )
