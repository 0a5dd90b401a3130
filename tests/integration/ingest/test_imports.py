"""Imports accept events of any age, otherwise by the rules of capture, with a requester and a reason."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc import aio
from meterline.ids import new_id
from meterline_protos.ingest.v1 import capture_pb2
from meterline_protos.ingest.v1 import corrections_pb2 as pb

from tests.support.capture import RunningIngest, Sample, columns, now_us
from tests.support.corrections_calls import WHO, Corrections

pytestmark = [pytest.mark.req("T3.4"), pytest.mark.asyncio(loop_scope="module")]

DAY = 86_400_000_000


@pytest.fixture
def ingest(own_tenant: RunningIngest) -> RunningIngest:
    """The tests share a service; each has a tenant of its own."""
    return own_tenant


@pytest.fixture
def corrections(ingest: RunningIngest) -> Corrections:
    return Corrections(ingest)


async def imports(corrections: Corrections, page_size: int = 0) -> list[pb.Import]:
    """All imports, from all pages."""
    request = pb.ListImportsRequest(tenant_id=corrections.tenant_id, page_size=page_size)
    found: list[pb.Import] = []
    while True:
        answer = await corrections.stub.ListImports(request)
        found += answer.imports
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def test_events_of_any_age_are_imported_except_future_ones(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    old, ancient = Sample(time_us=now_us() - 400 * DAY), Sample(time_us=1)
    future = Sample(time_us=now_us() + DAY)
    reported = await ingest.report(ingest.rows(old))

    answer = await corrections.import_events(str(new_id()), old, ancient, future, Sample(id="text"))

    assert reported.outcomes[0].reason == "TIME_TOO_OLD"
    assert (answer.accepted, answer.rejected) == (3, 1)
    assert answer.outcomes[0].reason == "TIME_IN_FUTURE"
    # Rejected events of imports are not quarantined: a replay would reject them as too old.
    assert (reported.outcomes[0].quarantined, answer.outcomes[0].quarantined) == (True, False)
    assert (await corrections.get(ancient.id)).event.time.ToMicroseconds() == 1
    assert (await corrections.get("text", "test")).batch.source == "test"
    assert await corrections.total() == 3


async def test_calls_with_one_import_id_are_listed_as_one_import(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    first, second = str(new_id()), str(new_id())
    known = Sample()
    await corrections.import_events(first, known, Sample())
    await corrections.import_events(first, known)
    await corrections.import_events(first, Sample())
    await corrections.import_events(second, Sample())
    await ingest.report(ingest.rows(Sample()))

    found = await imports(corrections)

    assert [(each.import_id, each.batches, each.events) for each in found] == [(second, 1, 1), (first, 2, 3)]
    assert {(each.source, each.requested_by, each.reason) for each in found} == {
        ("test", WHO["requested_by"], WHO["reason"])
    }
    assert await imports(corrections, page_size=1) == found


async def test_columns_are_imported_like_rows(ingest: RunningIngest, corrections: Corrections) -> None:
    samples = [Sample(time_us=now_us() - 100 * DAY) for _ in range(300)]
    request = pb.ImportEventsRequest(
        tenant_id=ingest.tenant,
        source="test",
        import_id=str(new_id()),
        columns=ingest.columns(*samples).columns,
        **WHO,
    )

    answer = await corrections.stub.ImportEvents(request)

    assert (answer.accepted, len(answer.outcomes)) == (300, 0)
    assert len(await corrections.rows_of(answer.batch_id, page_size=1000)) == 300
    assert (await corrections.stub.ImportEvents(request)).duplicate == 300


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"import_id": "x"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"import_id": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"source": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"reason": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"tenant_id": "nobody"}, grpc.StatusCode.NOT_FOUND),
        (
            {"rows": capture_pb2.EventRows(events=[Sample(tenant_id="bolt").to_row()])},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        ({"columns": columns(Sample(tenant_id="bolt")).columns}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_invalid_imports_are_refused(
    corrections: Corrections, wrong: dict[str, Any], code: grpc.StatusCode
) -> None:
    given: dict[str, Any] = {
        "tenant_id": corrections.tenant_id,
        "source": "test",
        "import_id": str(new_id()),
        "rows": capture_pb2.EventRows(events=[Sample().to_row()]),
    }
    with pytest.raises(aio.AioRpcError) as caught:
        await corrections.stub.ImportEvents(pb.ImportEventsRequest(**(given | WHO | wrong)))
    assert caught.value.code() == code
    assert await imports(corrections) == []


async def test_import_id_cannot_be_reused_with_other_data(
    ingest: RunningIngest, corrections: Corrections
) -> None:
    import_id = str(new_id())
    await corrections.import_events(import_id, Sample())
    for other in ({"reason": "another"}, {"requested_by": "bob@example.com"}, {"source": "elsewhere"}):
        with pytest.raises(aio.AioRpcError) as caught:
            await corrections.import_events(import_id, Sample(), **other)
        assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert await corrections.total() == 1
