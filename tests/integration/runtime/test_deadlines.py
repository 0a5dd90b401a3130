"""Statements end with the deadline of their call."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio
from meterline.db.pool import Database
from meterline.deadline import time_left
from meterline.errors import UnavailableError
from meterline.rpc import calls as rpc_calls
from meterline.rpc.client import Caller
from meterline.rpc.client import channel as service_channel

from tests.support.calls import client_of, server_of, serving, started
from tests.support.runtime import Node

pytestmark = pytest.mark.req("K2", "T2.4")


async def statement_timeout_ms(database: Database) -> int:
    ((value,),) = await database.fetch("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")
    return int(value)


async def test_call_deadline_bounds_its_statements(node: Node) -> None:
    async def ask(_: str) -> str:
        return str(await statement_timeout_ms(node.database))

    async with serving(ask) as client:
        # Less than the caller's remaining time, which gRPC may round up by 10 ms.
        assert 0 < int(await client.ask("", timeout=5.0)) < 5_000
        assert int(await client.ask("", timeout=60.0)) > 50_000


async def test_call_without_deadline_has_no_statement_timeout(node: Node) -> None:
    async def ask(_: str) -> str:
        return str(await statement_timeout_ms(node.database))

    async with serving(ask) as client:
        assert await client.ask("", timeout=5.0) != "0"
        assert await client.ask("") == "0", "nor does one stay behind in the pool"


async def test_slow_statement_is_cancelled_and_answered_before_the_deadline(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler's answer arrives before the caller's own deadline."""
    # Long enough for the answer to arrive on a busy machine.
    monkeypatch.setattr(rpc_calls, "DEADLINE_MARGIN_SECONDS", 1.0)

    async def ask(_: str) -> str:
        await node.database.fetch("SELECT pg_sleep(30)")
        return ""

    async with serving(ask) as client:
        with pytest.raises(aio.AioRpcError) as caught:
            await client.ask("", timeout=1.5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "the database did not answer in time"
    rows = await node.database.fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )
    assert rows == [(0,)]


async def test_deadline_is_passed_on_to_the_next_service(node: Node) -> None:
    """In a chain like identity -> aggregate -> database, the last call has the first call's deadline."""

    async def last(_: str) -> str:
        return str(await statement_timeout_ms(node.database))

    inner = server_of(last, grace=0.1)

    async def first(_: str) -> str:
        async with service_channel(inner.address, Caller(), default_timeout=30.0) as onward:
            answer: str = await client_of(onward).ask("")
        return answer

    async with started(inner), serving(first) as client:
        assert 0 < int(await client.ask("", timeout=5.0)) <= 4_940
        # gRPC rounds long deadlines up a little.
        assert 20_000 < int(await client.ask("")) <= 31_000, "else the channel's own"


async def test_no_statement_runs_after_the_deadline(node: Node) -> None:
    token = time_left.set(lambda: -1.0)
    with pytest.raises(UnavailableError):
        await node.database.fetch("SELECT pg_sleep(1)")
    time_left.reset(token)
