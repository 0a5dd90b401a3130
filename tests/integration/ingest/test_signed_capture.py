"""Signed calls, and API keys of one tenant, on ingest and identity as in production."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc import aio
from meterline.auth.principals import Permission
from meterline.ids import new_id
from meterline_client import CaptureConfig, Client
from meterline_dev.channels import metadata
from meterline_dev.servers import NatsServer
from meterline_ingest.tenants.directory import TenantDirectory
from meterline_protos.events.v1.events_pb2 import TenantChanged
from meterline_protos.identity.v1 import credentials_pb2
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    limits_pb2,
    limits_pb2_grpc,
)

from tests.support.calls import status_of
from tests.support.capture import Sample, columns, rows
from tests.support.credentials import Guarded, module_guarded, refusal, refused, signed_rows
from tests.support.databases import Databases

# The tests share services.
pytestmark = pytest.mark.asyncio(loop_scope="module")

Code = grpc.StatusCode
Form = Callable[..., capture_pb2.ReportRequest]
both_forms = pytest.mark.parametrize("form", [rows, columns])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(databases: Databases, nats_server: NatsServer) -> AsyncIterator[Guarded]:
    """Both services with the tenants `acme`, which signs, and `bolt`. No test changes these tenants."""
    async with module_guarded(databases, nats_server) as both:
        await both.put_type()
        await both.onboard("acme")
        await both.onboard("bolt")
        await both.rotate("acme")
        yield both


@pytest_asyncio.fixture(loop_scope="module")
async def bare(services: Guarded) -> AsyncIterator[aio.Channel]:
    """A channel to ingest without a token."""
    async with aio.insecure_channel(services.ingest_address) as channel:
        yield channel


@pytest.fixture
def capture(bare: aio.Channel) -> capture_pb2_grpc.CaptureServiceAsyncStub:
    return capture_pb2_grpc.CaptureServiceStub(bare)


# --- signed calls


@both_forms
@pytest.mark.req("T1.4")
async def test_signed_event_belongs_to_the_actor(services: Guarded, form: Form) -> None:
    client = await services.client("acme", actor="ann", source="web/1")
    sample = Sample(subject="")
    request = client.request(form(sample, tenant_id="acme", source="web/1"))
    answer = await services.report_signed(request)
    assert (answer.accepted, list(answer.outcomes)) == (1, [])
    stored = await events_pb2_grpc.EventsServiceStub(services.ingest_channel).GetEvent(
        events_pb2.GetEventRequest(tenant_id="acme", event_id=sample.id)
    )
    assert (stored.event.subject, stored.batch.source) == ("ann", "web/1")


@pytest.mark.req("T1.4")
async def test_replayed_call_within_the_window_counts_nothing_twice(services: Guarded) -> None:
    client = await services.client("acme")
    request = signed_rows(client, Sample(), Sample())
    assert (await services.report_signed(request)).accepted == 2
    again = await services.report_signed(request)
    assert (again.accepted, again.duplicate) == (0, 2)


@pytest.mark.req("T1.4")
async def test_stale_call_is_refused_with_the_server_time(services: Guarded) -> None:
    client = await services.client("acme")
    now_ms = time.time_ns() // 1_000_000
    for offset in (-301_000, 301_000):
        request = client.request(rows(Sample(), tenant_id=""), timestamp_ms=now_ms + offset)
        with pytest.raises(aio.AioRpcError) as caught:
            await services.report_signed(request)
        assert refusal(caught.value) == (Code.UNAUTHENTICATED, "TIMESTAMP_OUT_OF_WINDOW")
        info = error_details_pb2.ErrorInfo()
        assert status_of(caught.value).details[0].Unpack(info)
        assert abs(int(info.metadata["server_time_ms"]) - now_ms) < 60_000


@pytest.mark.req("T1.4")
async def test_invalid_signed_calls_are_refused_with_their_reason(services: Guarded) -> None:
    client = await services.client("acme")
    good = signed_rows(client, Sample())

    def changed(**fields: object) -> capture_pb2.ReportSignedRequest:
        request = capture_pb2.ReportSignedRequest()
        request.CopyFrom(good)
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    def configured(**fields: object) -> bytes:
        config = credentials_pb2.CaptureConfig.FromString(client.config)
        for name, value in fields.items():
            setattr(config, name, value)
        return config.SerializeToString()

    impossible = credentials_pb2.CaptureConfig.FromString(client.config)
    impossible.expires_at.seconds = 2**62
    assert await refused(services.report_signed(changed(config=impossible.SerializeToString()))) == (
        Code.UNAUTHENTICATED,
        "CONFIG_INVALID",
    )
    ended = credentials_pb2.CaptureConfig.FromString(client.config)
    ended.expires_at.FromSeconds(int(time.time()) - 1)
    expected = {
        "CONFIG_INVALID": changed(config=b""),
        "CONFIG_EXPIRED": changed(config=ended.SerializeToString()),
        "KEY_UNKNOWN": changed(config=configured(key_id="f" * 16)),
        "SIGNATURE_INVALID": changed(config=configured(source="elsewhere")),
    }
    for reason, request in expected.items():
        assert await refused(services.report_signed(request)) == (Code.UNAUTHENTICATED, reason)
    unknown = (Code.UNAUTHENTICATED, "KEY_UNKNOWN")
    for tenant in ("nobody", "bolt", "Not A Name", ""):
        assert await refused(services.report_signed(changed(config=configured(tenant_id=tenant)))) == unknown
    for request, reason in (
        (changed(id="a.b"), "ID_INVALID"),
        (client.request(b"\xff\xff"), "BODY_INVALID"),
        # Events of two bytes each, which take 350 bytes when parsed.
        (client.request(b"\x22\x80\x80\x40" + b"\x0a\x00" * 524_288), "TOO_MANY_EVENTS"),
        (client.request(rows(Sample(), source="elsewhere", tenant_id="")), "SOURCE_OUT_OF_SCOPE"),
        (client.request(rows(Sample(), tenant_id="bolt")), "TENANT_OUT_OF_SCOPE"),
        (signed_rows(client, Sample(type="other")), "TYPE_OUT_OF_SCOPE"),
    ):
        assert await refused(services.report_signed(request)) == (Code.INVALID_ARGUMENT, reason)


@pytest.mark.req("T1.4")
async def test_body_is_not_parsed_before_its_signature_is_valid(services: Guarded) -> None:
    client = await services.client("acme")
    request = client.request(b"\xff\xff")
    request.signature = bytes(32)
    assert await refused(services.report_signed(request)) == (Code.UNAUTHENTICATED, "SIGNATURE_INVALID")


@pytest.mark.req("T1.4")
async def test_invalid_events_of_a_signed_call_have_separate_outcomes(services: Guarded) -> None:
    client = await services.client("acme")
    answer = await services.report_signed(signed_rows(client, Sample(), Sample(quantities={"units": "many"})))
    assert (answer.accepted, answer.rejected) == (1, 1)
    assert answer.outcomes[0].reason == "QUANTITY_NOT_A_DECIMAL"


@pytest.mark.req("T1.4", "X4")
async def test_client_fetches_a_new_configuration_when_one_has_expired(services: Guarded) -> None:
    current = await services.client("acme", actor="ann", source="web/1")
    expired = credentials_pb2.CaptureConfig.FromString(current.config)
    expired.expires_at.FromSeconds(int(time.time()) - 1)
    configs = [CaptureConfig(expired.SerializeToString(), current.secret)]
    asked = 0

    def config() -> CaptureConfig:
        nonlocal asked
        asked += 1
        return configs[-1]

    async with Client(
        services.ingest_address, source="web/1", tenant_id="acme", capture_config=config
    ) as client:
        ids = [client.record("api.request", quantities={"units": 1}) for _ in range(3)]
        assert not await client.flush_async(0.5)
        assert asked >= 1
        configs.append(CaptureConfig(current.config, current.secret))
        assert await client.flush_async(30)
        assert (client.stats.accepted, client.stats.rejected) == (3, 0)
        client.record("other", quantities={"units": 1})
        assert await client.flush_async(30)
        assert (client.stats.accepted, client.stats.rejected) == (3, 1), "no type of the configuration"
    events = events_pb2_grpc.EventsServiceStub(services.ingest_channel)
    for event_id in ids:
        found = await events.GetEvent(events_pb2.GetEventRequest(tenant_id="acme", event_id=event_id))
        assert found.event.subject == "ann"


async def test_client_needs_either_a_key_or_a_configuration() -> None:
    config = CaptureConfig(b"config", b"secret")
    assert "secret" not in repr(config).replace("client_secret", "")
    with pytest.raises(ValueError, match="capture_config"):
        Client("nowhere:1", source="web/1", api_key="key", capture_config=config)


# --- API keys of one tenant


@both_forms
@pytest.mark.req("T4.1")
async def test_key_reports_for_its_tenant_only(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub, form: Form
) -> None:
    key = metadata((await services.api_key("acme", Permission.CAPTURE)).token)
    mine, theirs, nobodys = (Sample(tenant_id=tenant) for tenant in ("acme", "bolt", "nobody"))
    answer = await capture.Report(form(mine, theirs, nobodys), metadata=key)
    assert (answer.accepted, answer.rejected) == (1, 2)
    assert {(outcome.index, outcome.reason) for outcome in answer.outcomes} == {
        (1, "TENANT_FORBIDDEN"),
        (2, "TENANT_FORBIDDEN"),
    }
    assert (await capture.Report(form(Sample(), tenant_id="bolt"), metadata=key)).rejected == 1


@pytest.mark.req("T4.1", "O2")
async def test_rejected_events_of_other_tenants_are_not_quarantined(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    def bad(tenant: str) -> Sample:
        return Sample(tenant_id=tenant, quantities={"units": "9" * 20})

    key = metadata((await services.api_key("acme", Permission.CAPTURE)).token)
    answer = await capture.Report(rows(Sample(), bad("acme"), bad("bolt"), bad("nobody")), metadata=key)
    assert [(each.reason == "TENANT_FORBIDDEN", each.quarantined) for each in answer.outcomes] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    # An operator's rejected event is quarantined, though its tenant has no accepted event in the batch.
    operator = capture_pb2_grpc.CaptureServiceStub(services.ingest_channel)
    several = await operator.Report(rows(Sample(), bad("bolt")))
    assert [(each.index, each.quarantined) for each in several.outcomes] == [(1, True)]


@pytest.mark.req("T4.1", "T2.4")
async def test_unknown_tenants_are_looked_up_in_bulk_and_only_if_permitted(
    services: Guarded,
    capture: capture_pb2_grpc.CaptureServiceAsyncStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flush serves many callers, and must not wait for thousands of lookups for one of them."""
    asked: list[list[str]] = []
    ask = TenantDirectory._ask

    async def noted(directory: TenantDirectory, names: Sequence[str]) -> Sequence[TenantChanged]:
        # Lookups of tenants that were onboarded just now are ignored.
        asked.append([name for name in names if name.startswith("made-up")])
        return await ask(directory, names)

    monkeypatch.setattr(TenantDirectory, "_ask", noted)
    impossible = ["No Name", "a\0b", "x" * 100]
    made_up = [Sample(tenant_id=name) for name in (*(f"made-up-{at}" for at in range(2_497)), *impossible)]
    key = metadata((await services.api_key("acme", Permission.CAPTURE)).token)
    mine = await capture.Report(columns(Sample(), *made_up), metadata=key)
    assert (mine.accepted, mine.rejected) == (1, 2_500)
    assert not any(asked)
    asked.clear()

    operator = capture_pb2_grpc.CaptureServiceStub(services.ingest_channel)
    anybodys = await operator.Report(columns(Sample(), *made_up))
    assert (anybodys.accepted, anybodys.rejected) == (1, 2_500)
    assert {outcome.reason for outcome in anybodys.outcomes} == {"UNKNOWN_TENANT"}
    assert sum(map(len, asked)) == 2_497
    assert len(asked) == 3
    # Recent answers are cached.
    await operator.Report(columns(Sample(tenant_id="made-up-7"), Sample(tenant_id="made-up-8")))
    assert len(asked) == 3


async def slow_tenants(services: Guarded, count: int) -> list[str]:
    """Onboards tenants that may send 100 events at once, and hardly any more during a test."""
    capture = capture_pb2_grpc.CaptureServiceStub(services.ingest_channel)
    limits = limits_pb2_grpc.LimitsServiceStub(services.ingest_channel)
    slowly = limits_pb2.Limits(events_per_second=1, burst=100)
    tenants = [f"slow-{new_id()}" for _ in range(count)]
    for tenant in tenants:
        await services.onboard(tenant)
        # After an accepted event ingest knows the tenant, also without a message of identity.
        assert (await capture.Report(rows(Sample(), tenant_id=tenant))).accepted == 1
        await limits.PutTenantLimits(limits_pb2.PutTenantLimitsRequest(tenant_id=tenant, limits=slowly))
    return tenants


@both_forms
@pytest.mark.req("T4.1", "T4.2")
async def test_key_cannot_use_the_limit_of_another_tenant(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub, form: Form
) -> None:
    acme, bolt = await slow_tenants(services, 2)
    keys = {
        tenant: metadata((await services.api_key(tenant, Permission.CAPTURE)).token)
        for tenant in (acme, bolt)
    }
    foreign = form(*(Sample(tenant_id=bolt) for _ in range(200)), tenant_id=acme)
    assert (await capture.Report(foreign, metadata=keys[acme])).rejected == 200
    # The rejected events count for the limit of the caller, acme.
    with pytest.raises(aio.AioRpcError) as over:
        await capture.Report(foreign, metadata=keys[acme])
    assert over.value.code() is Code.RESOURCE_EXHAUSTED
    own = form(*(Sample() for _ in range(100)), tenant_id=bolt)
    assert (await capture.Report(own, metadata=keys[bolt])).accepted == 100


@pytest.mark.req("T4.1", "T4.2")
async def test_stream_cannot_use_the_limit_of_another_tenant(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    (slow,) = await slow_tenants(services, 1)
    acme, key = [
        metadata((await services.api_key(tenant, Permission.CAPTURE)).token) for tenant in ("acme", slow)
    ]

    async def messages() -> AsyncIterator[capture_pb2.StreamRequest]:
        for _ in range(120):
            yield capture_pb2.StreamRequest(source="test", event=Sample(tenant_id=slow).to_row())

    reasons = [
        each.outcome.reason
        async for answer in capture.Stream(messages(), metadata=acme, timeout=30)
        for each in answer.outcomes
    ]
    assert reasons == ["TENANT_FORBIDDEN"] * 120
    own = columns(*(Sample() for _ in range(100)), tenant_id=slow)
    assert (await capture.Report(own, metadata=key)).accepted == 100


@pytest.mark.req("T4.1")
async def test_key_implies_its_tenant(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    key = metadata((await services.api_key("acme", Permission.CAPTURE)).token)
    assert (await capture.Report(rows(Sample(), tenant_id=""), metadata=key)).accepted == 1


@pytest.mark.req("T4.1")
async def test_calls_of_several_tenants_in_one_flush_are_independent(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    keys = {
        tenant: metadata((await services.api_key(tenant, Permission.CAPTURE)).token)
        for tenant in ("acme", "bolt")
    }
    both = [Sample(tenant_id=tenant) for tenant in keys]
    mixed = [
        (tenant, form(*(replace(sample, id=Sample().id) for sample in both)))
        for tenant in keys
        for form in (rows, columns)
        for _ in range(5)
    ]
    answers = await asyncio.gather(
        *(capture.Report(request, metadata=keys[tenant]) for tenant, request in mixed)
    )
    for (tenant, _), answer in zip(mixed, answers, strict=True):
        foreign = 1 if tenant == "acme" else 0
        assert [outcome.index for outcome in answer.outcomes] == [foreign]
        assert (answer.accepted, answer.outcomes[0].reason) == (1, "TENANT_FORBIDDEN")


@pytest.mark.req("T4.1")
async def test_stream_with_key_reports_for_its_tenant_only(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    key = metadata((await services.api_key("acme", Permission.CAPTURE)).token)

    async def requests() -> AsyncIterator[capture_pb2.StreamRequest]:
        for tenant in ("", "bolt", "acme"):
            event = Sample().to_row()
            yield capture_pb2.StreamRequest(tenant_id=tenant, source="s", event=event)

    outcomes, accepted = {}, 0
    async for response in capture.Stream(requests(), metadata=key):
        accepted += response.accepted
        outcomes.update({each.sequence: each.outcome.reason for each in response.outcomes})
    assert (accepted, outcomes) == (2, {1: "TENANT_FORBIDDEN"})


@pytest.mark.req("T4.1")
async def test_capture_needs_its_permission_in_the_key(
    services: Guarded, capture: capture_pb2_grpc.CaptureServiceAsyncStub
) -> None:
    key = metadata((await services.api_key("acme", Permission.READ)).token)
    expected = (Code.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert await refused(capture.Report(rows(Sample()), metadata=key)) == expected
    assert await refused(capture.Report(rows(Sample()))) == (Code.UNAUTHENTICATED, "TOKEN_MISSING")
