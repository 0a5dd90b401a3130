"""The local Postgres server: lifecycle, and durability across crashes."""

import stat
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_dev import procstat
from meterline_dev.servers import PostgresServer, ServerError
from meterline_dev.servers.claim import DirectoryInUseError
from meterline_dev.servers.postgres_settings import SMALL as DURABLE
from meterline_dev.servers.postgres_settings import THROWAWAY
from meterline_dev.testing import eventually, scratch_directory
from psycopg.conninfo import conninfo_to_dict

SMALL = {**THROWAWAY, "shared_buffers": "32MB", "min_wal_size": "80MB", "max_wal_size": "256MB"}


@pytest.fixture(scope="module")
def durable_server() -> Iterator[PostgresServer]:
    with scratch_directory() as directory, PostgresServer(directory / "pg", settings=DURABLE) as server:
        yield server


@pytest.fixture
def durable_postgres(durable_server: PostgresServer) -> PostgresServer:
    """A durable server, running and without rows, which the test may kill."""
    durable_server.start()
    with psycopg.connect(durable_server.dsn()) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
    return durable_server


def _setting(server: PostgresServer, name: str) -> str:
    with psycopg.connect(server.dsn()) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def _insert(server: PostgresServer, value: int) -> None:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def _values(server: PostgresServer) -> list[int]:
    with psycopg.connect(server.dsn()) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


@pytest.mark.req("X4")
def test_postgres_restart_keeps_data_port_and_socket(place: Path) -> None:
    server = PostgresServer(place / "pg", settings=SMALL)
    server.stop()
    server.start()
    pid, port, address = server.pid, server.port, server.dsn(socket=True)
    server.start()
    assert server.pid == pid
    _insert(server, 1)
    server.restart()
    assert (server.pid != pid, server.port, server.dsn(socket=True)) == (True, port, address)
    psycopg.connect(address).close()
    server.stop()
    server.stop()
    assert not server.running
    assert not procstat.is_alive(pid)
    assert not server.socket_dir.exists()
    server.kill()
    with server:
        assert _values(server) == [1]
    with PostgresServer(place / "pg", settings=SMALL) as later:
        assert _values(later) == [1]


@pytest.mark.req("T7.3")
@pytest.mark.fault
def test_only_committed_rows_survive_sigkill(
    durable_postgres: PostgresServer,
) -> None:
    for value in range(5):
        _insert(durable_postgres, value)
        workers = procstat.tree(durable_postgres.pid)
        with psycopg.connect(durable_postgres.dsn()) as open_transaction:
            open_transaction.execute("INSERT INTO kept VALUES (1000)")
            durable_postgres.kill()
            assert procstat.wait_gone(workers, 0) == []
            open_transaction.close()
        durable_postgres.start()
        assert _values(durable_postgres) == list(range(value + 1))


@pytest.mark.req("T7.3")
@pytest.mark.fault
def test_dead_postmaster_is_restarted(durable_postgres: PostgresServer) -> None:
    _insert(durable_postgres, 7)
    procstat.kill(procstat.tree(durable_postgres.pid)[:1])
    assert eventually(lambda: not durable_postgres.running)
    durable_postgres.start()
    assert _values(durable_postgres) == [7]


@pytest.mark.req("X4", "T7.3")
def test_postgres_is_durable_and_private_by_default(durable_postgres: PostgresServer) -> None:
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "127.0.0.1",
        "jit": "off",
        "max_connections": "200",
        "checkpoint_timeout": "15min",
        "TimeZone": "UTC",
    }
    assert {name: _setting(durable_postgres, name) for name in expected} == expected
    assert stat.S_IMODE(durable_postgres.password_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(durable_postgres.socket_dir.stat().st_mode) == 0o700
    for wrong in (durable_postgres.dsn(password="wrong"), durable_postgres.dsn(password="", socket=True)):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(wrong)


@pytest.mark.req("X4")
def test_server_started_by_a_thread_outlives_the_thread(place: Path) -> None:
    server = PostgresServer(place / "pg", settings=SMALL)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    with server:
        pid = server.pid
        # A parent-death signal of the starting thread would have shut down the server.
        psycopg.connect(server.dsn()).close()
        assert not eventually(lambda: not procstat.is_alive(pid), seconds=0.3)


@pytest.mark.req("X4")
def test_concurrently_started_servers_do_not_collide(place: Path) -> None:
    servers = [PostgresServer(place / f"pg{number}", settings=SMALL) for number in range(3)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(PostgresServer.start, servers))
        assert len({server.port for server in servers}) == 3
        for number, server in enumerate(servers):
            _insert(server, number)
        assert [_values(server) for server in servers] == [[0], [1], [2]]
    finally:
        for server in servers:
            server.close()


@pytest.mark.req("X4")
def test_data_directory_has_one_owner_at_a_time(place: Path) -> None:
    with PostgresServer(place / "pg", settings=SMALL) as server:
        with pytest.raises(DirectoryInUseError, match=r"in use by process \d+"):
            PostgresServer(place / "pg").start()
        _insert(server, 1)


@pytest.mark.req("X4")
def test_failed_start_reports_its_cause_and_releases_the_directory(place: Path) -> None:
    with pytest.raises(ServerError, match="unrecognized configuration parameter"):
        PostgresServer(place / "pg", settings={**SMALL, "no_such_setting": "1"}).start()
    with PostgresServer(place / "pg", settings=SMALL) as server:
        server.stop()
        server.password_file.write_text("not the password\n")
        with pytest.raises(ServerError, match="does not hold the password"):
            server.start()
        assert not server.running
        server.password_file.unlink()
        with pytest.raises(ServerError, match="is missing"):
            server.start()


@pytest.mark.req("X4")
def test_foreign_directory_and_reserved_settings_are_refused(place: Path) -> None:
    (place / "pg").mkdir()
    (place / "pg" / "letter.txt").write_text("do not lose me")
    with pytest.raises(ServerError, match="is not empty"):
        PostgresServer(place / "pg").start()
    assert (place / "pg" / "letter.txt").read_text() == "do not lose me"
    with pytest.raises(ValueError, match="listen_addresses, port"):
        PostgresServer(place / "other", settings={"port": "1", "listen_addresses": "*"})


@pytest.mark.req("X4")
def test_frozen_template_is_copied_and_dropped(postgres_server: PostgresServer) -> None:
    template, one, other = (f"copy_{uuid.uuid4().hex[:12]}" for _ in range(3))
    postgres_server.create_database(template)
    with psycopg.connect(postgres_server.dsn(template)) as connection:
        connection.execute("CREATE TABLE migrated (value int)")
    lingering = psycopg.connect(postgres_server.dsn(template))
    postgres_server.freeze_template(template)
    for name in (one, other):
        postgres_server.create_database(name, template)
    lingering.close()
    with psycopg.connect(postgres_server.dsn(one)) as connection:
        connection.execute("INSERT INTO migrated VALUES (1)")
    with psycopg.connect(postgres_server.dsn(other)) as connection:
        assert connection.execute("SELECT count(*) FROM migrated").fetchone() == (0,)
        postgres_server.drop_database(other)
        postgres_server.drop_database(other)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.req("X4")
def test_memory_and_cpu_of_postgres_are_measured(postgres_server: PostgresServer) -> None:
    before = postgres_server.cpu_seconds()
    with psycopg.connect(postgres_server.dsn()) as connection:
        connection.execute("SELECT sum(i) FROM generate_series(1, 1500000) i")
    assert postgres_server.cpu_seconds() > before + 0.05
    assert postgres_server.rss_bytes() > 20 * 1024 * 1024


# Postgres names may contain any character but NUL; a single surrogate is no character.
_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@pytest.mark.req("X4")
@given(database=_texts, user=_texts, password=_texts, socket=st.booleans())
def test_dsn_encodes_any_name_and_password(database: str, user: str, password: str, socket: bool) -> None:
    with scratch_directory() as place:
        server = PostgresServer(place / "pg", port=5432)
        parts = conninfo_to_dict(server.dsn(database, user, password, socket=socket))
        server.close()
    assert (parts["dbname"], parts["user"], parts["password"]) == (database, user, password)
    assert parts["host"] == (str(server.socket_dir) if socket else "127.0.0.1")
    assert parts["port"] == "5432"
