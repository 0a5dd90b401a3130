"""Identity as a process: start, stop, and the state after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import httpx
import nats
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from meterline.bus.subjects import TENANTS_CHANGED
from meterline.clock import SystemClock
from meterline_dev.servers import NatsServer
from meterline_dev.testing import scratch_directory
from meterline_identity.main import Identity
from meterline_identity.settings import IdentitySettings
from meterline_protos.events.v1 import events_pb2
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from tests.support.databases import TestDatabase
from tests.support.logins import broker_with_logins, url_of
from tests.support.polling import eventually
from tests.support.processes import environment_of, launched, service_process
from tests.support.services import running, settings_for

pytestmark = pytest.mark.req("K1", "T7.3")

MODULE = "meterline_identity.main"

REQUEST = tenants_pb2.OnboardTenantRequest(
    tenant_id="acme",
    time_zone="America/New_York",
    currency="USD",
    plan="gold",
    external_customer_id="cus_1",
    external_subscription_id="sub_1",
)


@pytest.fixture
def environment(database: TestDatabase, broker: NatsServer) -> dict[str, str]:
    return environment_of("identity", database, broker)


async def onboard(channel: aio.Channel) -> tenants_pb2.OnboardTenantResponse:
    stub: Any = tenants_pb2_grpc.TenantsServiceStub(channel)
    answer: tenants_pb2.OnboardTenantResponse = await stub.OnboardTenant(REQUEST, timeout=10.0)
    return answer


async def published(broker: NatsServer) -> list[int]:
    """The versions of all published tenants, in the order of publication."""
    client = await nats.connect(broker.url, allow_reconnect=False)
    try:
        manager = client.jsm()
        last = (await manager.stream_info(TENANTS_CHANGED.stream)).state.last_seq
        messages = [await manager.get_msg(TENANTS_CHANGED.stream, seq) for seq in range(1, last + 1)]
    finally:
        await client.close()
    return [events_pb2.TenantChanged.FromString(message.data or b"").version for message in messages]


async def test_identity_reports_readiness_and_serves_health_reflection_and_metrics(
    environment: dict[str, str],
) -> None:
    async with service_process(MODULE, environment) as identity:
        assert identity.ready["service"] == "identity"
        assert identity.ready["pid"] == identity.process.pid
        async with aio.insecure_channel(identity.address) as channel:
            assert (await onboard(channel)).created
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service="meterline.identity.v1.TenantsService")
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
            asked = reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="meterline.identity.v1.TenantsService"
            )
            (described,) = [response async for response in reflection.ServerReflectionInfo(iter([asked]))]
            assert described.file_descriptor_response.file_descriptor_proto
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = await client.get(f"http://127.0.0.1:{identity.ready['metrics']}/metrics")
        assert "meterline_outbox_published_total" in metrics.text


async def test_identity_can_be_stopped_while_it_waits_for_the_broker(environment: dict[str, str]) -> None:
    """The broker does not answer: the process waits for it, and still handles SIGTERM."""
    waiting = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.set()
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"nats://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    changes = {"METERLINE_NATS_URL": url, "METERLINE_ALLOW_UNSYNCED_JETSTREAM": "true"}
    async with launched(MODULE, {**environment, **changes}) as process:
        async with asyncio.timeout(30):
            await waiting.wait()
        process.terminate()
        assert await _ended(process, 15.0) == 0
    silent.close()


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> int:
    async with asyncio.timeout(seconds):
        return await process.wait()


async def test_identity_refuses_a_broker_that_may_lose_acknowledged_messages(
    environment: dict[str, str],
) -> None:
    with scratch_directory() as place, NatsServer(place / "nats", sync_interval="2m") as careless:
        changes = {"METERLINE_NATS_URL": careless.url, "METERLINE_NATS_MONITOR_URL": careless.monitor_url}
        async with launched(MODULE, {**environment, **changes}) as process:
            assert await _ended(process, 30.0) not in (0, None)


async def _failed(environment: dict[str, str], **changes: str) -> str:
    """Runs identity until it exits before it is ready; returns its error output."""
    async with launched(MODULE, {**environment, **changes}, stderr=asyncio.subprocess.PIPE) as process:
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert output == b""
        assert process.returncode not in (0, None)
    return errors.decode()


@pytest.mark.req("T4.1")
async def test_identity_refuses_a_broker_without_logins(environment: dict[str, str]) -> None:
    errors = await _failed(environment, METERLINE_ALLOW_OPEN_BROKER="false")
    assert "METERLINE_ALLOW_OPEN_BROKER" in errors


@pytest.mark.req("T4.1", "S8")
async def test_identity_exits_when_the_broker_refuses_its_login(environment: dict[str, str]) -> None:
    with broker_with_logins() as guarded:
        changes = {
            "METERLINE_NATS_URL": guarded.url_of("identity", "hunter2"),
            "METERLINE_NATS_MONITOR_URL": guarded.monitor_url,
            "METERLINE_ALLOW_OPEN_BROKER": "false",
        }
        errors = await _failed(environment, **changes)
    assert "refuses the login of user 'identity'" in errors
    assert "hunter2" not in errors


@pytest.mark.req("T4.1")
async def test_graceful_stop_with_its_own_login_leaves_no_message_unpublished(
    environment: dict[str, str],
) -> None:
    with broker_with_logins() as guarded:
        changes = {
            "METERLINE_NATS_URL": url_of(guarded, "identity"),
            "METERLINE_NATS_MONITOR_URL": guarded.monitor_url,
            "METERLINE_ALLOW_OPEN_BROKER": "false",
        }
        async with service_process(MODULE, {**environment, **changes}) as identity:
            async with aio.insecure_channel(identity.address) as channel:
                await onboard(channel)
            identity.process.send_signal(signal.SIGTERM)
            assert await identity.ended() == 0
        assert await published(guarded) == [1]


async def test_migrations_run_with_a_separate_command(
    empty_database: TestDatabase, broker: NatsServer
) -> None:
    environment = environment_of("identity", empty_database, broker)
    outputs = []
    for _ in range(2):
        async with launched("meterline.migrate", environment, "identity") as process:
            output, _ = await process.communicate()
            assert process.returncode == 0
            outputs.append(output.decode().splitlines())
    assert "identity: applied meterline_identity/0001_tenants" in outputs[0]
    assert outputs[1] == []


@pytest.mark.fault
@pytest.mark.req("K3", "X7")
@pytest.mark.parametrize(
    "point",
    [
        "unit_of_work.before_commit",
        "unit_of_work.after_commit",
        "outbox.relay.before_publish",
        "outbox.relay.after_publish",
        "outbox.relay.after_commit",
    ],
)
async def test_repeated_request_after_a_kill_creates_one_tenant_and_one_message(
    environment: dict[str, str], database: TestDatabase, broker: NatsServer, point: str
) -> None:
    async with service_process(MODULE, {**environment, "METERLINE_CRASH_AT": point}) as identity:
        with contextlib.suppress(aio.AioRpcError):
            async with aio.insecure_channel(identity.address) as channel:
                await onboard(channel)
        assert await identity.ended() == -signal.SIGKILL
    # The same service, inside the test: its own process would take longer to start than all the rest.
    settings = IdentitySettings.model_validate(settings_for("identity", database, broker))
    async with running(Identity(settings, SystemClock())) as channel:
        answer = await onboard(channel)
        assert answer.created == (point == "unit_of_work.before_commit")
        assert answer.tenant.version == 1
        await eventually(lambda: published(broker), until=lambda versions: versions == [1])
    assert await published(broker) == [1]
