"""Each handler has one transaction, outbox included, which is atomic."""

from __future__ import annotations

import asyncio
import random

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.db.pool import Database
from meterline.errors import UnavailableError
from meterline.transactions.unit_of_work import Transaction, UnitOfWork

from tests.support.databases import TestDatabase
from tests.support.polling import eventually
from tests.support.runtime import Node, OpenNode, count, end_sessions, notes

pytestmark = pytest.mark.req("K3", "T3.2")


async def write(transaction: Transaction, note: str) -> None:
    """Writes an effect, and emits a message about it."""
    await transaction.connection.execute("INSERT INTO effects VALUES (gen_random_uuid(), %s)", (note,))
    transaction.emit("probe.x", StringValue(value=note))


async def test_effect_and_message_exist_after_commit(node: Node, effects_database: TestDatabase) -> None:
    async with node.unit_of_work.begin() as tx:
        await write(tx, "kept")
        await tx.commit()
    assert notes(effects_database) == ["kept"]
    assert count(effects_database, "outbox", "subject = 'probe.x' AND published_at IS NULL") == 1


async def test_uncommitted_transaction_leaves_nothing(node: Node, effects_database: TestDatabase) -> None:
    async with node.unit_of_work.begin() as tx:
        await write(tx, "forgotten")
    assert notes(effects_database) == []
    assert count(effects_database, "outbox") == 0


async def test_failed_transaction_leaves_nothing(node: Node, effects_database: TestDatabase) -> None:
    async def fail() -> None:
        async with node.unit_of_work.begin() as tx:
            await write(tx, "forgotten")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert notes(effects_database) == []
    assert count(effects_database, "outbox") == 0


async def test_failure_after_commit_does_not_undo_it(node: Node, effects_database: TestDatabase) -> None:
    async with node.unit_of_work.begin() as tx:
        await write(tx, "kept")
        await tx.commit()
        await tx.connection.execute("INSERT INTO effects VALUES (gen_random_uuid(), 'too late')")
    assert notes(effects_database) == ["kept"]


async def test_messages_of_a_transaction_keep_their_order(node: Node) -> None:
    ids = await node.emit(*(str(number) for number in range(50)))
    assert ids == sorted(ids)


async def test_only_commit_wakes_relay_and_runs_callbacks(effects_database: TestDatabase) -> None:
    calls: list[str] = []
    database = Database(effects_database.app_dsn("ingest"), size=1)
    await database.start()
    unit_of_work = UnitOfWork(database, lambda: calls.append("relay"))
    async with unit_of_work.begin() as tx:
        tx.after_commit(lambda: calls.append("callback of a rollback"))
        tx.emit("probe.x", b"")
    assert calls == []
    async with unit_of_work.begin() as tx:
        tx.after_commit(lambda: calls.append("callback"))
        tx.emit("probe.x", b"")
        await tx.commit()
    assert calls == ["callback", "relay"]
    async with unit_of_work.begin() as tx:
        await tx.commit()
    assert calls == ["callback", "relay"], "a commit without messages does not wake the relay"
    await database.stop()


async def test_relay_is_woken_when_caller_cancels_after_commit(
    effects_database: TestDatabase,
) -> None:
    woken = asyncio.Event()
    committed = asyncio.Event()
    database = Database(effects_database.app_dsn("ingest"), size=1)
    await database.start()

    async def handle() -> None:
        async with UnitOfWork(database, woken.set).begin() as tx:
            tx.emit("probe.x", b"")
            await tx.commit()
            committed.set()
            await asyncio.Event().wait()

    call = asyncio.create_task(handle())
    await committed.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert woken.is_set()
    await database.stop()


@pytest.mark.req("T4.1")
async def test_cancelled_handlers_leave_pool_clean(
    open_node: OpenNode, effects_database: TestDatabase
) -> None:
    """Handlers are cancelled at random moments on a small pool; each is committed whole or not at all,
    and leaves no transaction, setting or broken connection for the next."""
    node = await open_node(pool_size=3)
    chance = random.Random(2024)

    async def handle(note: str) -> str:
        async with node.unit_of_work.begin() as tx:
            await tx.connection.execute("SET LOCAL statement_timeout = '77s'")
            await write(tx, note)
            await write(tx, note)
            await tx.commit()
        return note

    loop = asyncio.get_running_loop()
    begun = loop.time()
    answered = [await handle("whole")]
    longest = 6 * (loop.time() - begun)

    async def cut_short(note: str) -> str | None:
        call = asyncio.create_task(handle(note))
        await asyncio.wait({call}, timeout=chance.random() * longest)
        call.cancel()
        (result,) = await asyncio.gather(call, return_exceptions=True)
        return result if isinstance(result, str) else None

    cancelled = turn = 0
    # Enough of both outcomes to be conclusive; the duration of calls depends on the machine's load.
    while turn < 30 or cancelled <= 10 or len(answered) <= 10:
        turn += 1
        results = await asyncio.gather(*(cut_short(f"{turn}-{part}") for part in range(6)))
        answered += [note for note in results if note is not None]
        cancelled += results.count(None)
        longest *= {0: 0.5, len(results): 2}.get(results.count(None), 1)
    seen = notes(effects_database)
    assert set(answered) <= set(seen), "what was answered is there"
    assert all(seen.count(note) == 2 for note in seen), "nothing is there by half"
    assert count(effects_database, "outbox") == len(seen)

    settings = await asyncio.gather(*(node.database.fetch("SHOW statement_timeout") for _ in range(9)))
    assert settings == [[("0",)]] * 9


@pytest.mark.req("T7.3")
async def test_lost_session_is_unavailable_and_the_next_one_works(
    node: Node, effects_database: TestDatabase
) -> None:
    async def lose() -> None:
        async with node.unit_of_work.begin() as tx:
            await write(tx, "lost")
            end_sessions(effects_database)
            await tx.commit()

    with pytest.raises(UnavailableError):
        await lose()

    async def again() -> bool:
        try:
            async with node.unit_of_work.begin() as tx:
                await write(tx, "kept")
                await tx.commit()
        except UnavailableError:
            return False  # the pool had more of the ended sessions
        return True

    await eventually(again)
    assert notes(effects_database) == ["kept"]
