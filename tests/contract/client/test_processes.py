"""The client in processes that end, are killed, fork, share a spool, or lack optional libraries."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.capture_server import CaptureServer, serving

HEAD = """
import os, sys
from meterline_client import Client, Tuning
address, spool = sys.argv[1], sys.argv[2] or None
quick = Tuning(backoff_base=0.01, backoff_longest=0.02, breaker_cooldown=0.01, spool_after=0.01)
options = {"source": "test/1", "tenant_id": "acme", "flush_interval": 0.01}
client = Client(address, spool_dir=spool, tuning=quick, **options)
def record(count):
    for _ in range(count):
        # One write a line, so that lines of several processes do not mix.
        os.write(1, client.record("api.called", "s").encode() + b"\\n")
"""


def start(script: str, address: str, spool: Path | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + script, address, str(spool or "")], stdout=subprocess.PIPE, text=True
    )


def ids_from(process: subprocess.Popen[str], code: int = 0) -> list[str]:
    """The ids that the process printed; checks that it exited as expected."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code
    return output.split()


@pytest.mark.req("T1.3")
def test_ending_process_sends_recorded_events() -> None:
    with serving(CaptureServer()) as server:
        ids = ids_from(start("record(50)", server.address))

        assert server.capture.counted == set(ids)
        assert len(ids) == 50


@pytest.mark.req("T1.3")
def test_process_that_ends_with_an_error_sends_recorded_events() -> None:
    with serving(CaptureServer()) as server:
        ids = ids_from(start("record(50); sys.stderr.close(); sys.exit(3)", server.address), code=3)

        assert server.capture.counted == set(ids)


@pytest.mark.req("T7.2", "T7.3")
def test_spooled_events_survive_a_kill(tmp_path: Path) -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    script = """
import threading
record(200)
waiting = threading.Event()
while client.stats.spooled < 200:
    waiting.wait(0.01)
os.kill(os.getpid(), 9)
"""
    ids = ids_from(start(script, servicer.address, tmp_path), code=-signal.SIGKILL)

    with serving(servicer, port=int(servicer.address.rpartition(":")[2])) as server:
        ids += ids_from(start("record(1); client.flush(30)", server.address, tmp_path))
        assert server.capture.counted == set(ids)
    assert len(set(ids)) == 201
    assert list(tmp_path.rglob("*.seg")) == []


@pytest.mark.req("T1.3")
def test_processes_that_share_a_spool_are_independent(tmp_path: Path) -> None:
    servicer = CaptureServer()
    with serving(servicer):
        pass
    processes = [start("record(50)", servicer.address, tmp_path) for _ in range(3)]
    ids = [one for process in processes for one in ids_from(process)]

    with serving(servicer, port=int(servicer.address.rpartition(":")[2])) as server:
        ids += ids_from(start("record(1); client.flush(30)", server.address, tmp_path))
        assert server.capture.counted == set(ids)
    assert len(ids) == 151


@pytest.mark.req("T1.1", "T1.3")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_side_of_a_fork_sends_its_own_events(tmp_path: Path) -> None:
    # The client is used before the fork, so its thread and connection exist.
    script = """
record(20)
client.flush(30)
record(20)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        record(100)
        assert client.stats.recorded == 100
        sent = client.close(30)
        os._exit(0 if sent else 1)
    children.append(child)
record(100)
codes = [os.waitpid(child, 0)[1] for child in children]
assert codes == [0, 0], codes
assert client.stats.recorded == 140
"""
    with serving(CaptureServer()) as server:
        ids = ids_from(start(script, server.address, tmp_path))

        assert len(ids) == len(set(ids)) == 340
        assert server.capture.counted == set(ids)
        sent = sum(len(call.columns.times_us) // 8 for call in server.calls)
        assert sent == 340, "only the parent sends events recorded before the fork"


@pytest.mark.req("T7.1")
def test_client_needs_neither_opentelemetry_nor_service_libraries() -> None:
    script = """
for name in ("opentelemetry", "numpy", "meterline", "google.rpc", "grpc_status"):
    sys.modules[name] = None
for name in [name for name in sys.modules if name.startswith("meterline_client")]:
    del sys.modules[name]
from meterline_client import Client
client = Client(address, source="test/1", tenant_id="acme")
record(5)
assert client.close(30)
"""
    with serving(CaptureServer()) as server:
        ids = ids_from(start(script, server.address))

        assert server.capture.counted == set(ids)


@pytest.mark.req("T7.1")
def test_unusable_spool_does_not_stop_delivery(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = "record(5); assert client.flush(30); print(client.stats.spool_errors)"
    with serving(CaptureServer()) as server:
        *ids, errors = ids_from(start(script, server.address, tmp_path / "file"))

        assert (server.capture.counted, errors) == (set(ids), "1")
