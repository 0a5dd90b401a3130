"""Killing the process that started servers leaves none running, and nothing that blocks the next start."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import psycopg
import pytest
from meterline_dev import procstat
from meterline_dev.servers import NatsServer, PostgresServer
from meterline_dev.testing import eventually

pytestmark = [pytest.mark.req("X4"), pytest.mark.fault]

_PARENT = """
import asyncio, json, sys
from pathlib import Path
import psycopg
from meterline_dev import procstat
from meterline_dev.processes import ChildSpec, Supervisor
from meterline_dev.servers import NatsServer, PostgresServer

place, tied = Path(sys.argv[1]), sys.argv[2] == "tied"
if not tied:
    PostgresServer.death_signal = NatsServer.death_signal = 0
postgres = PostgresServer(place / "pg", settings={"shared_buffers": "32MB"})
nats = NatsServer(place / "nats")

async def main():
    await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(nats.start))
    with psycopg.connect(postgres.dsn()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    mesh = Supervisor()
    sleeper = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
    await mesh.start(ChildSpec(name="child", argv=sleeper, log_file=place / "child.log"))
    child = mesh.pid("child")
    pids = [child, nats.pid, *(member.pid for member in procstat.tree(postgres.pid))]
    report = {"pids": pids, "postgres": postgres.pid, "nats": nats.pid, "child": child}
    print(json.dumps(report), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass(frozen=True)
class _ParentReport:
    """The pids that the parent prints before it waits to be killed."""

    pids: list[int]
    postgres: int
    nats: int
    child: int


@contextmanager
def _parent(place: Path, how: str) -> Iterator[tuple["subprocess.Popen[str]", _ParentReport]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(place), how], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process, _ParentReport(**json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children at their parent's death")
def test_sigkill_of_the_parent_ends_its_servers(place: Path) -> None:
    with _parent(place, "tied") as (parent, report):
        # Some Postgres processes end on their own: closed sessions and finished workers.
        alive = set(filter(procstat.is_alive, report.pids))
        assert alive >= {report.child, report.postgres, report.nats}
        assert len(alive) > 5
        parent.kill()
        parent.wait()
        assert eventually(lambda: not any(map(procstat.is_alive, report.pids)), seconds=20)
    # Postgres made a fast shutdown and did not crash, so that no recovery is needed.
    assert "database system is shut down" in (place / "pg.log").read_text()
    with PostgresServer(place / "pg") as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (42,)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children at their parent's death")
def test_next_start_waits_only_for_the_shutdown(place: Path) -> None:
    with _parent(place, "tied") as (parent, report):
        parent.kill()
        parent.wait()
        with PostgresServer(place / "pg") as server, NatsServer(place / "nats"):
            assert server.pid not in report.pids
            with psycopg.connect(server.dsn()) as connection:
                assert connection.execute("SELECT value FROM kept").fetchone() == (42,)


def test_next_start_ends_servers_of_a_dead_owner(place: Path) -> None:
    with _parent(place, "untied") as (parent, report):
        parent.kill()
        parent.wait()
        left = [psutil.Process(pid) for pid in (report.postgres, report.nats)]
        try:
            assert all(process.is_running() for process in left)
            with PostgresServer(place / "pg") as server, NatsServer(place / "nats"):
                assert procstat.wait_gone(left, 0) == []
                with psycopg.connect(server.dsn()) as connection:
                    assert connection.execute("SELECT value FROM kept").fetchone() == (42,)
        finally:
            procstat.kill(left)


def test_pid_file_of_another_program_does_not_block_the_start(place: Path) -> None:
    with PostgresServer(place / "pg") as server:
        server.kill()
        pid_file = server.data_dir / "postmaster.pid"
        other_pid = str(os.getpid())
        pid_file.write_text(pid_file.read_text().replace(pid_file.read_text().split()[0], other_pid, 1))
        server.start()
        assert server.running
