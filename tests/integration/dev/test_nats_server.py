"""The local NATS server: lifecycle, durability, and the settings that services get."""

import asyncio
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from meterline_dev import procstat
from meterline_dev.servers import (
    NatsServer,
    NotDurableError,
    ServerError,
    SyncPolicy,
    read_sync_policy,
    require_sync_always,
    reserve_port,
    sync_interval_is_always,
)
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError


async def _publish(server: NatsServer, stream: str, count: int) -> None:
    connection = await nats.connect(server.url, allow_reconnect=False)
    try:
        context = connection.jetstream()
        await context.add_stream(name=stream, subjects=[f"{stream}.>"])
        for number in range(count):
            await context.publish(f"{stream}.a", b"%d" % number)
    finally:
        await connection.close()


async def _messages(server: NatsServer, stream: str) -> int:
    connection = await nats.connect(server.url, allow_reconnect=False)
    try:
        return (await connection.jsm().stream_info(stream)).state.messages
    finally:
        await connection.close()


@pytest.mark.req("X4", "T2.1")
def test_nats_restart_keeps_messages_and_ports(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    server.stop()
    server.start()
    pid, urls = server.pid, (server.url, server.monitor_url)
    server.start()
    assert server.pid == pid
    asyncio.run(_publish(server, "kept", 3))
    server.restart()
    assert server.pid != pid
    assert (server.url, server.monitor_url) == urls
    server.stop()
    server.stop()
    assert not procstat.is_alive(pid)
    server.close()
    with NatsServer(tmp_path / "nats") as later:
        assert asyncio.run(_messages(later, "kept")) == 3


@pytest.mark.req("T2.1", "T7.3")
@pytest.mark.fault
def test_acknowledged_messages_survive_sigkill(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        asyncio.run(_publish(server, "kept", 50))
        pid = server.pid
        server.kill()
        assert not procstat.is_alive(pid)
        server.start()
        assert asyncio.run(_messages(server, "kept")) == 50


@pytest.mark.req("T7.4")
@pytest.mark.fault
def test_wipe_removes_all_streams_and_needs_a_stopped_server(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        asyncio.run(_publish(server, "lost", 3))
        with pytest.raises(ServerError, match="must be stopped"):
            server.wipe()
        server.kill()
        server.wipe()
        server.wipe()
        server.start()
        with pytest.raises(NotFoundError):
            asyncio.run(_messages(server, "lost"))


@pytest.mark.req("T7.3")
def test_nats_reports_sync_before_each_ack(nats_server: NatsServer) -> None:
    assert sync_interval_is_always(nats_server.monitor_url)
    require_sync_always(nats_server.monitor_url)


@pytest.mark.req("T7.3")
def test_nats_with_periodic_sync_is_refused_unless_allowed(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", sync_interval="30s") as server:
        assert read_sync_policy(server.monitor_url) == SyncPolicy(False, timedelta(seconds=30))
        with pytest.raises(NotDurableError, match="flushes every 0:00:30"):
            require_sync_always(server.monitor_url)
        require_sync_always(server.monitor_url, allow_loss=True)


@pytest.mark.req("T7.3")
def test_unresponsive_nats_is_not_considered_durable() -> None:
    lease = reserve_port()
    with pytest.raises(OSError, match="refused"):
        require_sync_always(f"http://127.0.0.1:{lease.port}")
    lease.release()


@pytest.mark.req("X4")
def test_nats_requires_the_configured_login(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats", user="mesh", password="s3cret-_.~") as server:
        asyncio.run(_publish(server, "kept", 1))
        assert stat.S_IMODE(server.config_file.stat().st_mode) == 0o600
        with pytest.raises(NatsError, match="Authorization Violation"):
            asyncio.run(nats.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False))
    with pytest.raises(ValueError, match="together"):
        NatsServer(tmp_path / "nats", user="mesh")
    with pytest.raises(ValueError, match="does not decode"):
        NatsServer(tmp_path / "nats", user="mesh", password="p@ss")


@pytest.mark.req("X4")
def test_concurrently_started_servers_do_not_collide(tmp_path: Path) -> None:
    servers = [NatsServer(tmp_path / f"nats{number}") for number in range(3)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(NatsServer.start, servers))
        assert len({port for server in servers for port in (server.port, server.monitor_port)}) == 6
        for server in servers:
            asyncio.run(_publish(server, "own", 1))
    finally:
        for server in servers:
            server.close()


@pytest.mark.req("X4")
def test_lost_reserved_port_is_replaced_unless_it_was_requested(
    tmp_path: Path,
) -> None:
    server = NatsServer(tmp_path / "nats")
    with socket.create_server(("127.0.0.1", server.port)) as thief:
        with server:
            assert server.port != thief.getsockname()[1]
            asyncio.run(_publish(server, "kept", 1))
        with pytest.raises(ServerError, match="address already in use"):
            NatsServer(tmp_path / "nats", port=thief.getsockname()[1]).start()
