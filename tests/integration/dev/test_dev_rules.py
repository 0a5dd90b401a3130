"""Rules of the local servers: sizes for the machine, waits between restarts, and log tails."""

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_dev import logs
from meterline_dev.processes import ChildSpec
from meterline_dev.servers import files, postgres, postgres_settings
from meterline_dev.testing import scratch_directory

pytestmark = pytest.mark.req("X4")


@given(first=st.floats(0.001, 10), longest=st.floats(0.001, 60), restarts=st.integers(0, 10_000))
def test_restart_delays_grow_up_to_a_bound(first: float, longest: float, restarts: int) -> None:
    spec = ChildSpec(name="x", argv=[], log_file=Path("log"), first_backoff=first, max_backoff=longest)
    assert 0 < spec.backoff(restarts) <= spec.backoff(restarts + 1) <= longest
    assert spec.backoff(0) == min(first, longest)


@given(memory=st.integers(64, 10_000_000))
def test_shared_buffers_fit_the_memory(memory: int) -> None:
    size = postgres_settings._shared_buffers_mb(memory)
    assert 32 <= size <= 4096
    assert size <= max(32, memory / 8)
    assert size == 4096 or memory < 8 * 4097


@given(free=st.integers(0, 10_000_000))
def test_wal_leaves_most_of_a_small_disk_free(free: int) -> None:
    size = postgres_settings._max_wal_mb(free)
    assert 256 <= size <= 8192
    assert size == 256 or size <= free / 4


def test_wal_is_kept_for_reuse_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(free_mb: int) -> dict[str, str]:
        usage = shutil.disk_usage(tmp_path)._replace(free=free_mb << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        return postgres_settings.default_settings(postgres.binaries(), tmp_path)

    first = settings(2_400)
    assert first["min_wal_size"] == first["max_wal_size"] == "600MB"
    (tmp_path / "pg_wal" / "archive_status").mkdir(parents=True)
    for number in range(4):
        with (tmp_path / "pg_wal" / f"{number}").open("wb") as segment:
            segment.truncate(100 << 20)
    assert settings(2_000)["max_wal_size"] == "600MB"


@pytest.mark.parametrize("settings", [postgres_settings.SMALL, postgres_settings.THROWAWAY])
def test_servers_of_tests_have_small_settings(settings: Mapping[str, str]) -> None:
    assert settings["shared_buffers"] == "64MB"
    assert settings["max_wal_size"] == "1GB"
    assert settings["min_wal_size"] == "80MB"


@given(
    lines=st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40), max_size=60),
    wanted=st.integers(1, 30),
    earlier=st.binary(max_size=200),
)
def test_log_tail_is_the_last_lines_since_the_start(lines: list[str], wanted: int, earlier: bytes) -> None:
    with scratch_directory() as place:
        log = place / "log"
        log.write_bytes(earlier + "".join(f"{line}\n" for line in lines).encode())
        assert logs.tail(log, lines=wanted, since=len(earlier)) == "\n".join(lines[-wanted:])
        text, end = logs.read_from(log, len(earlier))
        assert text.splitlines() == lines
        assert logs.read_from(log, end) == ("", end)


def test_large_log_is_rotated(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("x" * 100)
    logs.rotate(log, above_bytes=100)
    assert log.exists()
    logs.rotate(log, above_bytes=99)
    assert not log.exists()
    assert (tmp_path / "server.log.1").read_text() == "x" * 100
    logs.rotate(log, above_bytes=99)
    assert logs.tail(log) == ""


def test_socket_directories_are_short_private_and_removed_when_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch_directory() as place:
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        names = ("mlpg-abandoned", "mlpg-in-use", "mlpg-starting")
        abandoned, in_use, starting = (place / name for name in names)
        for directory in (abandoned, in_use, starting):
            directory.mkdir()
        (in_use / ".s.PGSQL.1").touch()
        for directory in (abandoned, in_use):
            os.utime(directory, (0, 0))
        made = files.short_private_directory()
        assert set(place.iterdir()) == {in_use, starting, made}
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    short = files.short_private_directory()
    assert short.parent == Path("/tmp")
    short.rmdir()


def test_socket_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    wanted = tmp_path / "sockets"
    files.ensure_private_directory(wanted, {os.geteuid()})
    files.ensure_private_directory(wanted, {os.geteuid()})
    with pytest.raises(PermissionError, match="not a directory of this server's"):
        files.ensure_private_directory(wanted, {os.geteuid() + 1})
    (tmp_path / "link").symlink_to(wanted)
    with pytest.raises(PermissionError):
        files.ensure_private_directory(tmp_path / "link", {os.geteuid()})
