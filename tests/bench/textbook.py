"""The textbook pipeline, one row at a time: the reference for batching.

It is correct and gives the same guarantees (durable, deduplicated, counted once), on the same servers: for
each event a SELECT for its existence, an INSERT, and a row in the outbox; a relay that publishes and deletes
single rows; a consumer that checks its inbox, then updates or inserts a total, in one transaction each.

Runs as three processes, one for each role: `python -m tests.bench.textbook capture|relay|consumer DSN PLACE`,
where PLACE is capture's listening address, or else the broker's URL. Each prints a line when it is ready.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import nats
import nats.errors
import psycopg
import uvloop
from grpc import aio
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig
from psycopg_pool import AsyncConnectionPool

from tests.bench import pace
from tests.bench.usage import Visible, units
from tests.bench.workload import DIMENSION, QUANTITY, Tally, tenant_name

ROLES = ("capture", "relay", "consumer")
READY = "textbook is ready"
_SUBJECT = "textbook.events"
_STREAM = "TEXTBOOK"
_IDLE_SECONDS = 0.01
_BATCH = 100
# At some hundreds of events a second this delays nothing, and it uses little of the machine.
_LOOK_SECONDS = 0.1

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class _Capture(capture_pb2_grpc.CaptureServiceServicer):
    """Stores reports row by row, each report in one transaction."""

    def __init__(self, pool: AsyncConnectionPool[Connection]) -> None:
        self._pool = pool

    async def Report(
        self, request: capture_pb2.ReportRequest, context: aio.ServicerContext[Any, Any]
    ) -> capture_pb2.ReportResponse:
        accepted = 0
        async with self._pool.connection() as connection:
            for event in request.rows.events:
                accepted += await _store(connection, request.tenant_id, event)
        return capture_pb2.ReportResponse(accepted=accepted, duplicate=len(request.rows.events) - accepted)

    async def ReportSigned(
        self, request: capture_pb2.ReportSignedRequest, context: aio.ServicerContext[Any, Any]
    ) -> capture_pb2.ReportSignedResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no load is signed")
        raise AssertionError("abort returned")

    async def Stream(
        self, requests: AsyncIterator[capture_pb2.StreamRequest], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[capture_pb2.StreamResponse]:
        acknowledged = 0
        async for request in requests:
            async with self._pool.connection() as connection:
                accepted = await _store(connection, request.tenant_id, request.event)
            acknowledged += 1
            yield capture_pb2.StreamResponse(
                acknowledged=acknowledged, accepted=accepted, duplicate=not accepted
            )


async def _store(connection: Connection, tenant_id: str, event: capture_pb2.Event) -> bool:
    tenant_id, event_id = event.tenant_id or tenant_id, uuid.UUID(event.id)
    found = await connection.execute(
        "SELECT 1 FROM textbook.events WHERE tenant_id = %s AND event_id = %s", (tenant_id, event_id)
    )
    if await found.fetchone():
        return False
    occurred_at = event.time.ToDatetime(tzinfo=UTC)
    amount = units(Decimal(event.quantities[QUANTITY]))
    await connection.execute(
        "INSERT INTO textbook.events VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            tenant_id,
            event_id,
            event.type,
            event.subject,
            occurred_at,
            amount,
            json.dumps(dict(event.dimensions)),
        ),
    )
    fact = {
        "tenant_id": tenant_id,
        "region": event.dimensions[DIMENSION],
        "occurred_at": occurred_at.isoformat(),
        "units": amount,
    }
    await connection.execute("INSERT INTO textbook.outbox (payload) VALUES (%s)", (json.dumps(fact),))
    return True


async def _capture(dsn: str, address: str, stopped: asyncio.Event) -> None:
    async with AsyncConnectionPool[Connection](dsn, min_size=4, max_size=4, open=False) as pool:
        server = aio.server()
        capture_pb2_grpc.add_CaptureServiceServicer_to_server(_Capture(pool), server)
        server.add_insecure_port(address)
        await server.start()
        print(READY, flush=True)
        await stopped.wait()
        await server.stop(1.0)


async def _relay(dsn: str, url: str, stopped: asyncio.Event) -> None:
    client = await nats.connect(url)
    jetstream = client.jetstream()
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        print(READY, flush=True)
        while not stopped.is_set():
            if not await _publish_some(connection, jetstream):
                await pace.until(time.monotonic() + _IDLE_SECONDS)
    await client.close()


async def _publish_some(connection: Connection, jetstream: JetStreamContext) -> int:
    cursor = await connection.execute(
        "SELECT id, payload FROM textbook.outbox ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED", (_BATCH,)
    )
    rows = await cursor.fetchall()
    for row_id, payload in rows:
        await jetstream.publish(_SUBJECT, json.dumps(payload).encode(), headers={"Nats-Msg-Id": str(row_id)})
        await connection.execute("DELETE FROM textbook.outbox WHERE id = %s", (row_id,))
    await connection.commit()
    return len(rows)


async def _consume(dsn: str, url: str, stopped: asyncio.Event) -> None:
    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe(_SUBJECT, durable="textbook")
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        print(READY, flush=True)
        while not stopped.is_set():
            try:
                messages = await subscription.fetch(_BATCH, timeout=0.05)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            for message in messages:
                await _count(connection, message)
                await message.ack()
    await client.close()


async def _count(connection: Connection, message: Msg) -> None:
    message_id = int((message.headers or {})["Nats-Msg-Id"])
    found = await connection.execute("SELECT 1 FROM textbook.inbox WHERE id = %s", (message_id,))
    if not await found.fetchone():
        fact = json.loads(message.data)
        await connection.execute("INSERT INTO textbook.inbox VALUES (%s)", (message_id,))
        hour = datetime.fromisoformat(fact["occurred_at"]).replace(minute=0, second=0, microsecond=0)
        key = (fact["tenant_id"], fact["region"], hour)
        updated = await connection.execute(
            "UPDATE textbook.totals SET events = events + 1, units = units + %s"
            " WHERE tenant_id = %s AND region = %s AND hour = %s",
            (fact["units"], *key),
        )
        if updated.rowcount == 0:
            await connection.execute(
                "INSERT INTO textbook.totals VALUES (%s, %s, %s, 1, %s)", (*key, fact["units"])
            )
    await connection.commit()


async def set_up(dsn: str, url: str) -> None:
    """Creates the schema and the stream, both empty. `dsn` is of an administrator."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(Path(__file__).with_suffix(".sql").read_bytes())
    client = await nats.connect(url)
    jetstream = client.jetstream()
    if _STREAM in [each.config.name for each in await jetstream.streams_info()]:
        await jetstream.delete_stream(_STREAM)
    await jetstream.add_stream(StreamConfig(name=_STREAM, subjects=[_SUBJECT], storage=StorageType.FILE))
    await client.close()


async def totals(dsn: str, expected: Tally, seconds: float) -> Visible:
    """Waits until the totals contain all events; returns the time, and the differences by tenant."""
    query = (
        "SELECT tenant_id, sum(events)::bigint, sum(units)::bigint FROM textbook.totals GROUP BY tenant_id"
    )
    seen: dict[str, tuple[int, int]] = {}
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def look() -> bool:
            rows = await (await connection.execute(query)).fetchall()
            seen.update((tenant_id, (events, summed)) for tenant_id, events, summed in rows)
            return sum(events for events, _ in seen.values()) >= expected.total

        await pace.poll(look, every=_LOOK_SECONDS, seconds=seconds)
    return Visible(
        time.monotonic(),
        [
            f"{tenant_name(tenant)}: textbook has {seen.get(tenant_name(tenant))}, not {wanted}"
            for tenant in range(len(expected.counts))
            if seen.get(tenant_name(tenant), (0, 0)) != (wanted := expected.of_tenant(tenant))
        ],
    )


async def _main(arguments: Sequence[str]) -> None:
    role, dsn, place = arguments
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await {"capture": _capture, "relay": _relay, "consumer": _consume}[role](dsn, place, stopped)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1:]))
