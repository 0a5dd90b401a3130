"""One trace from the call, through the outbox row and the message header, to the consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from meterline.auth.api_keys import KnownKeys
from meterline.auth.gate import Bearers, Gate
from meterline.auth.principals import Permission
from meterline.auth.rules import Reach, Rule
from meterline.clock import SystemClock
from meterline.consuming.delivery import Delivery
from meterline.transactions.unit_of_work import Transaction
from meterline_dev.servers import NatsServer
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.callers import Authority
from tests.support.calls import NAME, RULES, client_of, server_of, serving, started
from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import PROBE, SERVICE, Node, note_effects, notes, pending, stored

pytestmark = pytest.mark.req("K4")

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return "00-{}-{}-{:02x}".format(*ids(span), context.trace_flags)


def parent(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def headers_in_outbox(database: TestDatabase) -> list[dict[str, str]]:
    with psycopg.connect(database.app_dsn("ingest")) as connection:
        return [row[0] for row in connection.execute("SELECT headers FROM outbox ORDER BY message_id")]


async def test_call_and_consumer_share_one_trace(
    node: Node, broker: NatsServer, effects_database: TestDatabase, spans: InMemorySpanExporter
) -> None:
    async def ask(text: str) -> str:
        await node.emit(text)
        return text

    consumer = node.consumer()
    await consumer.start()
    await node.relay.start()
    async with serving(ask) as client:
        await client.ask("traced", metadata=[("traceparent", f"00-{TRACE}-{CALLER}-01")])
    await eventually(lambda: notes(effects_database))
    await consumer.stop()

    (call,) = named(spans, "probe.Probe/Ask")
    assert ids(call)[0] == TRACE
    assert parent(call) == CALLER
    assert traceparent(call) == f"00-{TRACE}-{ids(call)[1]}-01"
    assert headers_in_outbox(effects_database) == [{"traceparent": traceparent(call)}]
    (message,) = await stored(broker)
    assert (message.headers or {})["traceparent"] == traceparent(call)
    (process,) = named(spans, "process PROBE")
    assert ids(process)[0] == TRACE
    assert parent(process) == ids(call)[1]
    (receive,) = named(spans, "receive PROBE")
    (link,) = process.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == ids(receive)


async def test_unsampled_trace_stays_unsampled(
    node: Node, effects_database: TestDatabase, spans: InMemorySpanExporter
) -> None:
    async def ask(text: str) -> str:
        await node.emit(text)
        return text

    consumer = node.consumer()
    await consumer.start()
    await node.relay.start()
    async with serving(ask) as client:
        await client.ask("quiet", metadata=[("traceparent", f"00-{TRACE}-{CALLER}-00")])
    await eventually(lambda: notes(effects_database))
    await consumer.stop()
    (headers,) = headers_in_outbox(effects_database)
    assert headers["traceparent"].startswith(f"00-{TRACE}-")
    assert headers["traceparent"].endswith("-00")
    assert named(spans, "process PROBE") == []


@pytest.mark.req("T4.1")
async def test_trace_context_of_unauthenticated_callers_is_ignored(spans: InMemorySpanExporter) -> None:
    """Neither refused callers nor callers with signed requests decide what is sampled."""
    authority = Authority()
    known = Bearers(authority.tokens(), KnownKeys(no_keys), SystemClock())
    reader, proving = Rule(Permission.READ), Rule(None, Reach.EVENTS)
    for rule, expected in ((reader, []), (proving, [None])):
        spans.clear()
        rules = {**RULES, f"{NAME}/Ask": rule}
        server = server_of(gate=Gate(rules, known), grace=0.1)
        async with started(server) as channel:
            for flag in ("00", "01"):
                asked = client_of(channel).ask("x", metadata=[("traceparent", f"00-{TRACE}-{CALLER}-{flag}")])
                await asyncio.gather(asked, return_exceptions=True)
        found = named(spans, "probe.Probe/Ask")
        assert [span.parent for span in found] == expected * 2
        assert TRACE not in {ids(span)[0] for span in found}
    server = server_of(gate=Gate(RULES, known), grace=0.1)
    async with started(server) as channel:
        traced = [("traceparent", f"00-{TRACE}-{CALLER}-01"), *authority.metadata(Permission.READ)]
        await client_of(channel).ask("x", metadata=traced)
    assert ids(named(spans, "probe.Probe/Ask")[-1])[0] == TRACE


async def no_keys(key_id: str, digest: bytes) -> None:
    return None


async def test_emitted_messages_belong_to_trace_of_message_or_batch(
    node: Node, broker: NatsServer, effects_database: TestDatabase, spans: InMemorySpanExporter
) -> None:
    """A single message continues its own trace. A result of several messages has the batch's trace."""
    batches: list[int] = []
    busy, others_are_there = asyncio.Event(), asyncio.Event()

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        busy.set()
        await others_are_there.wait()
        await note_effects(transaction, deliveries)
        batches.append(len(deliveries))
        transaction.emit("nowhere", b"")

    consumer = node.consumer(handle)
    await consumer.start()
    for texts in (["one"], ["a", "b", "c"]):
        await node.emit(*texts)
        while await node.relay.publish_pending():
            continue
        await busy.wait()
    await eventually(
        lambda: pending(broker, PROBE.consumer_name(SERVICE)), until=lambda waiting: waiting == (4, 0)
    )
    others_are_there.set()
    await eventually(lambda: len(notes(effects_database)), until=lambda seen: seen == 4)
    await consumer.stop()
    assert batches == [1, 3]

    with psycopg.connect(effects_database.app_dsn("ingest")) as app:
        emitted = app.execute(
            "SELECT headers->>'traceparent' FROM outbox WHERE subject = 'nowhere' ORDER BY message_id"
        ).fetchall()
    first, *_ = named(spans, "process PROBE")
    _, second = named(spans, "receive PROBE")
    assert emitted == [(traceparent(first),), (traceparent(second),)]


async def test_failure_is_recorded_in_spans_of_its_messages(
    node: Node, broker: NatsServer, spans: InMemorySpanExporter
) -> None:
    tried = asyncio.Event()

    async def handle(transaction: Transaction, deliveries: Sequence[Delivery]) -> None:
        tried.set()
        raise ZeroDivisionError("a fault of ours")

    consumer = node.consumer(handle)
    await consumer.start()
    await node.relay.start()
    await node.emit("x")
    await tried.wait()
    await consumer.stop()
    span, *_ = named(spans, "process PROBE")
    assert not span.status.is_ok
    assert span.status.description == "a fault of ours"
