"""Requests that once failed as INTERNAL, or could: each is refused with the invalid field and the reason.

`test_mutated_requests.py` searches for unknown cases; these are the known ones.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2
from grpc import aio
from meterline_dev.mesh import Mesh
from meterline_protos.aggregate.v1 import usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import timers_pb2, timers_pb2_grpc

from tests.fault.conftest import SHARED
from tests.fault.foreign_requests import Rpc, all_rpcs
from tests.fault.load import prepare
from tests.fault.request_world import OWN_TYPE, TENANT, WHO, World, build
from tests.support.calls import status_of

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300), pytest.mark.req("T8.3")]

NUL: Final = "a\0b"
OF: Final[dict[str, Any]] = {"tenant_id": TENANT}
LATE: Final = "9999-12-31T23:00:00Z"
FAR: Final = {"start_time": "2025-01-01T00:00:00Z", "end_time": LATE}

INGEST: Final = "ingest.v1."
USAGE: Final = "aggregate.v1.UsageService/"
INVOICES: Final = "publisher.v1.InvoicesService/"
LEDGER: Final = "publisher.v1.PublicationsService/"
NOBODY: Final = "00000000-0000-0000-0000-000000000000"
# In microseconds, just after the year 9999.
BEYOND: Final = 253_402_300_800_000_000

Case = tuple[str, Mapping[str, Any], str, str]
"""RPC, request, the field that is named, and the reason."""

QUERY: Final = OF | {"meter": "units", "grain": 2, "range": FAR}

TEXTS: Final[list[tuple[str, Mapping[str, Any], str]]] = [
    (f"{INGEST}CatalogueService/GetEntry", OF | {"namespace": "n", "key": NUL}, "key"),
    (f"{INGEST}CatalogueService/ListEntries", OF | {"namespace": NUL}, "namespace"),
    (f"{INGEST}CatalogueService/DeleteEntries", OF | {"keys": ["k", NUL]}, "keys[1]"),
    (f"{INGEST}TimersService/GetTimer", OF | {"timer_id": NUL}, "timer_id"),
    (f"{INGEST}TimersService/HeartbeatTimer", OF | {"timer_id": NUL}, "timer_id"),
    (f"{INGEST}TimersService/StopTimer", OF | {"timer_id": NUL}, "timer_id"),
    (f"{INGEST}TimersService/StartTimer", OF | {"dimensions": {"d": NUL}}, 'dimensions["d"]'),
    (f"{INGEST}TimersService/ListTimers", OF | {"subject": NUL}, "subject"),
    (f"{INGEST}EventTypesService/ListEventTypeVersions", OF | {"name": NUL}, "name"),
    (f"{INGEST}EventsService/GetTotals", {"tenant_id": NUL}, "tenant_id"),
    (f"{USAGE}QueryUsage", QUERY | {"meter": NUL}, "meter"),
    ("publisher.v1.PricesService/ListPrices", {"plan": NUL}, "plan"),
    (
        "operations.v1.DeadLettersService/ListDeadLetters",
        {"filter": {"consumer": NUL}},
        "filter.consumer",
    ),
]

WithToken = tuple[str, Mapping[str, Any], list[object]]

TOKENS: Final[list[WithToken]] = [
    (f"{INGEST}CorrectionsService/ListCorrections", OF, [BEYOND, NOBODY, 1]),
    (f"{INGEST}CorrectionsService/ListCorrections", OF, [0, "x", 1]),
    (f"{INGEST}CorrectionsService/ListCorrections", OF, [0, NOBODY, 2**31]),
    (f"{INGEST}CorrectionsService/ListImports", OF, [2**62, NOBODY]),
    (f"{INGEST}CorrectionsService/ListImports", OF, [0, "x"]),
    (f"{INGEST}QuarantineService/ListQuarantined", OF, [-(2**62), NOBODY]),
    (f"{INGEST}TimersService/ListTimers", OF, [NUL]),
    (f"{INVOICES}ListInvoices", OF, [2**62]),
    (f"{INVOICES}ListInvoices", OF, [-(2**62)]),
    (f"{LEDGER}ListPublications", OF, [2**63]),
    (f"{USAGE}QueryUsage", QUERY, [BEYOND]),
    (f"{USAGE}QueryUsage", QUERY | {"by_group": True}, [0, 2**63]),
    ("identity.v1.TenantsService/ListTenants", {}, [2**31]),
    ("identity.v1.CredentialsService/ListApiKeys", OF, [BEYOND, "k"]),
]


def cases(world: World) -> list[Case]:
    line = OF | {"line_id": world.line_id}
    # The publisher's page tokens contain those of the services that it calls.
    within: list[WithToken] = [
        (f"{INVOICES}ExplainInvoiceLine", line, ["?", ""]),
        (f"{INVOICES}ExplainInvoiceLine", line, ["", "?"]),
    ]
    wrong_type = {"name": OWN_TYPE, "quantities": [{"name": "q", "scale": 77, "minimum": "1"}]}
    return [
        *((name, plain, field, "TEXT_INVALID") for name, plain, field in TEXTS),
        *(
            (name, {**plain, "page_token": token(*parts)}, "page_token", "PAGE_TOKEN_INVALID")
            for name, plain, parts in [*TOKENS, *within]
        ),
        (
            f"{INGEST}EventsService/ExportEvents",
            OF | {"time": FAR, "resume_token": token(0, NOBODY, 2**40)},
            "resume_token",
            "PAGE_TOKEN_INVALID",
        ),
        (f"{INVOICES}PreviewInvoice", OF | {"at": LATE}, "at", "TIME_OUT_OF_RANGE"),
        (f"{LEDGER}PublishUsage", OF | {"at": LATE}, "at", "TIME_OUT_OF_RANGE"),
        (f"{LEDGER}ReconcilePeriod", OF | {"at": "0001-01-01T00:00:00Z"}, "at", "TIME_OUT_OF_RANGE"),
        (
            f"{INGEST}EventTypesService/PutEventType",
            {"event_type": wrong_type},
            "event_type.quantities[q].scale",
            "INVALID_ARGUMENT",
        ),
        (
            f"{INGEST}CorrectionsService/CorrectEvents",
            OF | WHO | {"filter": {"batch_ids": ["1" * 36]}, "retract": {}},
            "filter.batch_ids",
            "UUID_INVALID",
        ),
    ]


def token(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


# RPCs with a time range, and the name of its field.
RANGES: Final = {
    "ingest.v1.AuditService/ListAuditEntries": "time",
    "ingest.v1.CorrectionsService/ListCorrections": "time",
    "ingest.v1.EventsService/ListEvents": "time",
    "ingest.v1.EventsService/ExportEvents": "time",
    "ingest.v1.EventsService/Replay": "range",
    "aggregate.v1.UsageService/QueryUsage": "range",
    "aggregate.v1.UsageService/ListContributions": "range",
}


async def refusal(mesh: Mesh, rpc: Rpc, sent: bytes) -> tuple[str, str]:
    """The invalid field of a refused call, and the reason."""
    service = "ingest" if rpc.service == "operations" else rpc.service
    path = f"/{rpc.method.containing_service.full_name}/{rpc.method.name}"
    async with mesh.channel(service) as plain:
        channel: Any = plain
        if rpc.method.server_streaming:
            call = channel.unary_stream(path)(sent, timeout=20).read()
        else:
            call = channel.unary_unary(path)(sent, timeout=20)
        with pytest.raises(aio.AioRpcError) as caught:
            await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (rpc.name, sent, caught.value)
    for detail in status_of(caught.value).details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            return request.field_violations[0].field, request.field_violations[0].reason
    raise AssertionError("no field is named")


@SHARED
async def test_each_invalid_field_is_named_with_its_reason(shared_mesh: Mesh) -> None:
    rpcs, mesh = {rpc.name: rpc for rpc in all_rpcs()}, shared_mesh
    world = await build(mesh)
    for name, plain, field, reason in cases(world):
        sent = ParseDict(dict(plain), rpcs[name].request()).SerializeToString()
        assert await refusal(mesh, rpcs[name], sent) == (field, reason), (name, plain)
    for name, field in RANGES.items():
        wrong: Any = rpcs[name].request()
        if "meter" in wrong.DESCRIPTOR.fields_by_name:
            wrong.meter = "units"
        wrong.tenant_id = TENANT
        getattr(wrong, field).start_time.seconds = 1_600_000_000
        end = getattr(wrong, field).end_time
        end.seconds, end.nanos = 1_700_000_000, 1_000_000_000
        refused_for = await refusal(mesh, rpcs[name], wrong.SerializeToString())
        assert refused_for == (f"{field}.end_time", "TIME_INVALID"), name
    for rpc in rpcs.values():
        if not rpc.method.client_streaming:
            assert (await refusal(mesh, rpc, b"\x0a\x7f"))[1] in ("REQUEST_INVALID", "INVALID_ARGUMENT")


@SHARED
async def test_range_until_the_latest_time_and_long_names_are_answered(shared_mesh: Mesh) -> None:
    await prepare(shared_mesh, ("far",))
    usage: Any = usage_pb2.QueryUsageRequest(tenant_id="far", meter="units", grain=types_pb2.GRAIN_MONTH)
    ParseDict(FAR, usage.range)
    async with shared_mesh.channel("aggregate") as channel:
        answer = await usage_pb2_grpc.UsageServiceStub(channel).QueryUsage(usage, timeout=20)
    assert list(answer.windows) == []
    async with shared_mesh.channel("ingest") as channel:
        request = timers_pb2.GetTimerRequest(tenant_id="far", timer_id="x" * 60_000)
        with pytest.raises(aio.AioRpcError) as caught:
            await timers_pb2_grpc.TimersServiceStub(channel).GetTimer(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
