"""Recorded events arrive exactly once, however their process ends; tested with real processes."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.capture_server import CaptureServer, serving
from tests.support.client import ids_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HEAD = """
import atexit, os, signal, sys, threading
from multiprocessing import get_context
from meterline_client import Client, Tuning, exit_on_sigterm
address, spool = sys.argv[1], sys.argv[2] or None
def new_client(**options):
    given = {"source": "test/1", "tenant_id": "acme", "spool_dir": spool, "flush_interval": 3600} | options
    return Client(address, **given)
client = new_client()
def record(count):
    os.write(1, b"".join(client.record("api.called", "s").encode() + b"\\n" for _ in range(count)))
"""


@pytest.fixture
def server() -> Iterator[CaptureServer]:
    with serving(CaptureServer()) as one:
        yield one


def run(script: str, address: str, spool: Path | None = None, code: int = 0) -> tuple[list[str], str]:
    """The ids that the program printed, and its other output."""
    return run_program(["-c", HEAD + script, address, str(spool or "")], code)


def run_program(arguments: list[str], code: int = 0) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout.split(), done.stderr


def arrivals(server: CaptureServer) -> Counter[str]:
    """The number of arrivals of each id."""
    return Counter(one for payload in server.capture.received for one in ids_of(payload))


def once(ids: list[str]) -> Counter[str]:
    assert len(set(ids)) == len(ids), "two processes made the same id"
    return Counter(ids)


@pytest.mark.req("T1.3", "T7.3")
@pytest.mark.parametrize(
    ("method", "made", "spooled"),
    [
        ("fork", "before", True),
        ("fork", "before", False),
        ("fork", "after", True),
        ("fork", "after", False),
        ("forkserver", "before", True),
        ("forkserver", "after", False),
        ("spawn", "before", False),
        ("spawn", "after", True),
    ],
)
def test_events_arrive_however_their_process_ends(
    server: CaptureServer, tmp_path: Path, method: str, made: str, spooled: bool
) -> None:
    spool = str(tmp_path) if spooled else ""
    ids, _ = run_program(["-m", "tests.support.ending_processes", server.address, spool, method, made])

    assert server.capture.counted == set(once(ids))
    if not spooled:
        # With a spool, events that a killed process had sent may be sent again; they count once.
        assert arrivals(server) == once(ids)
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".seg", ".journal")] == []


@pytest.mark.req("T1.3", "X7")
@pytest.mark.parametrize(("planted", "spooled"), [("ends_by_atexit_only", False), ("journals_nothing", True)])
def test_client_that_misses_a_process_end_is_caught(
    server: CaptureServer, tmp_path: Path, planted: str, spooled: bool
) -> None:
    spool = str(tmp_path) if spooled else ""
    ids, _ = run_program(["-m", f"tests.fault.planted.{planted}", server.address, spool, "fork", "before"])

    assert set(once(ids)) - set(arrivals(server))


@pytest.mark.req("T1.3")
@pytest.mark.parametrize("spooled", [False, True])
def test_prefork_workers_deliver_when_their_master_stops_them(
    server: CaptureServer, tmp_path: Path, spooled: bool
) -> None:
    # Like gunicorn: the master loads the application; workers leave their loop on SIGTERM and call sys.exit.
    script = """
record(20)
ready, tell = os.pipe()
def work():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    record(50)
    os.write(tell, b".")
    stop.wait()
    record(10)
    sys.exit(0)
workers = []
for _ in range(3):
    worker = os.fork()
    if not worker:
        work()
    workers.append(worker)
for _ in workers:
    os.read(ready, 1)
for worker in workers:
    os.kill(worker, signal.SIGTERM)
assert [os.waitpid(worker, 0)[1] for worker in workers] == [0, 0, 0]
record(5)
"""
    ids, _ = run(script, server.address, tmp_path if spooled else None)

    assert len(ids) == 20 + 3 * 60 + 5
    assert arrivals(server) == once(ids)


@pytest.mark.req("T7.3")
def test_successor_delivers_events_of_a_killed_prefork_worker(server: CaptureServer, tmp_path: Path) -> None:
    script = """
for kill in (True, False):
    worker = os.fork()
    if not worker:
        record(50)
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(0)
    os.waitpid(worker, 0)
"""
    ids, _ = run(script, server.address, tmp_path)

    assert len(ids) == 100
    assert arrivals(server) == once(ids)


@pytest.mark.req("T1.3")
@pytest.mark.parametrize("before", [0, 20], ids=["unused before", "used before"])
@pytest.mark.parametrize("last", ["pass", "assert client.close(30)"], ids=["closed by itself", "closed"])
def test_process_that_cannot_start_threads_at_exit_delivers(
    server: CaptureServer, before: int, last: str
) -> None:
    # Since Python 3.12 no thread can start during interpreter shutdown: no delivery, no gRPC poller.
    script = f"""
record({before})
@atexit.register
def no_more_threads():
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    threading.Thread.start = refuse
    record(5)
    {last}
"""
    ids, _ = run(script, server.address)

    assert len(ids) == before + 5
    # A call that could not be awaited may still have been sent; the server counts an id once.
    assert server.capture.counted == set(once(ids))


@pytest.mark.req("T1.3", "T7.1")
def test_number_of_events_lost_at_exit_is_reported() -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    script = """
def child():
    record(50)
    client.close(0.1)
process = get_context("fork").Process(target=child)
process.start()
process.join()
"""
    _, said = run(script, servicer.address)

    assert "loses 50 events" in said


@pytest.mark.req("T1.3", "T7.1")
def test_client_that_fails_at_exit_does_not_stop_other_clients(server: CaptureServer) -> None:
    script = """
def fail():
    raise LookupError("planted")
others = [new_client() for _ in range(3)]
for one in others:
    one.close = fail
record(20)
"""
    ids, said = run(script, server.address)

    assert arrivals(server) == once(ids)
    assert said.count("LookupError: planted") >= 3


@pytest.mark.req("T7.2", "T7.3")
def test_only_unacknowledged_events_are_resent_after_a_kill(server: CaptureServer, tmp_path: Path) -> None:
    ids, _ = run(
        "record(100); assert client.flush(30); record(50); os.kill(os.getpid(), 9)",
        server.address,
        tmp_path,
        code=-9,
    )
    more, _ = run(
        "record(1); assert client.flush(30); assert client.stats.inherited == 50, client.stats",
        server.address,
        tmp_path,
    )

    assert arrivals(server) == once(ids + more)


@pytest.mark.req("T1.1")
def test_existing_sigterm_handler_is_kept(server: CaptureServer) -> None:
    script = """
handled = []
signal.signal(signal.SIGTERM, lambda *_: handled.append(1))
assert not exit_on_sigterm()
os.kill(os.getpid(), signal.SIGTERM)
assert handled == [1]
signal.signal(signal.SIGTERM, signal.SIG_DFL)
assert exit_on_sigterm() and not exit_on_sigterm()
record(5)
os.kill(os.getpid(), signal.SIGTERM)
"""
    ids, _ = run(script, server.address, code=143)

    assert arrivals(server) == once(ids)


@pytest.mark.req("T1.3", "T7.2")
def test_events_beyond_the_spool_stay_in_the_journal_at_exit(tmp_path: Path) -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    script = """
def fail(file):
    raise OSError("No space left on device")
os.fsync = fail
record(50)
assert not client.close(0.1)
assert (client.stats.spooled, client.stats.dropped, client.stats.failed) == (50, 0, 0), client.stats
"""
    ids, said = run(script, servicer.address, tmp_path)
    assert "loses" not in said

    with serving(servicer, port=int(servicer.address.rpartition(":")[2])) as server:
        more, _ = run("record(1)", server.address, tmp_path)
        assert arrivals(server) == once(ids + more)


@pytest.mark.req("T1.3")
def test_sigterm_ends_a_process_that_waits_for_children_at_exit(server: CaptureServer) -> None:
    script = """
from multiprocessing import util
ready, tell = os.pipe()
def never_ends():
    os.close(1)
    os.close(2)
    threading.Event().wait()
def child():
    exit_on_sigterm()
    record(20)
    grandchild = get_context("fork").Process(target=never_ends)
    grandchild.start()
    os.write(1, f"{grandchild.pid}\\n".encode())
    # Called as the process begins to end, before it waits for its child and closes its client.
    util.Finalize(None, os.write, (tell, b"."), exitpriority=0)
process = get_context("fork").Process(target=child)
process.start()
os.read(ready, 1)
process.terminate()
process.join()
assert process.exitcode in (1, 143), process.exitcode
"""
    (*ids, grandchild), _ = run(script, server.address)
    os.kill(int(grandchild), 9)

    assert arrivals(server) == once(ids)
