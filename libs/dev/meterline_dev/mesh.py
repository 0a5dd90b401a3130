"""The whole of Meterline on one machine: Postgres, NATS, the Stripe double and the four services.

Everything listens on loopback and ends with this process. What is started here is what production runs:
the services know nothing of this module.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from grpc import aio
from meterline import migrate
from meterline.bus import permissions
from meterline.db import provision

from meterline_dev import channels
from meterline_dev.keys import Keys, SecretFile, write_secret
from meterline_dev.placement import Placement
from meterline_dev.processes import ChildSpec, Supervisor
from meterline_dev.servers import NatsServer, PostgresServer
from meterline_dev.servers.account import close_to_others
from meterline_dev.servers.ports import PortLease, reserve_port
from meterline_dev.variables import CONTROL_KEY, STRIPE_KEY

DATABASE: Final = "meterline"
# In the order of their start: each asks only those before it.
SERVICES: Final = ("identity", "ingest", "aggregate", "publisher")
NATS_OPERATOR: Final = "operator"
STRIPE_DOUBLE: Final = "stripe-double"
_SERVICE_READY = re.compile(r'"grpc":')
# Four services start at once, perhaps for the first time and on a busy machine; one that dies meanwhile is
# noticed at once.
_READY_SECONDS: Final = 120.0


@dataclass(frozen=True)
class MeshOptions:
    """How a mesh differs from the default one.

    services: which to start; the servers are always started, and the double with the publisher, its only user
    environment: METERLINE_… variables by service, over the mesh's own
    programs: another command line for a service, as fault tests need
    postgres_settings: over those of `PostgresServer`
    restart: whether a service that dies is started again
    """

    services: Sequence[str] = SERVICES
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    restart: bool = False


class Mesh:
    """Use it as `async with Mesh(directory) as mesh`. The directory keeps all data and logs."""

    def __init__(self, directory: Path, options: MeshOptions | None = None) -> None:
        self.directory = directory
        self.options = options or MeshOptions()
        self.supervisor = Supervisor()
        self.postgres = PostgresServer(directory / "postgres", settings=self.options.postgres_settings)
        self._leases: dict[str, PortLease] = {}
        self._passwords = SecretFile(directory / "passwords.json")
        self.keys = Keys(directory)
        self.uses_double = STRIPE_KEY not in os.environ

    # --- where everything is

    def address(self, service: str) -> str:
        """host:port of a service's gRPC."""
        return f"127.0.0.1:{self._port(service)}"

    def metrics_url(self, service: str) -> str:
        return f"http://127.0.0.1:{self._port(f'{service}-metrics')}/metrics"

    @property
    def stripe_url(self) -> str:
        return (
            f"http://127.0.0.1:{self._port(STRIPE_DOUBLE)}" if self.uses_double else "https://api.stripe.com"
        )

    @property
    def stripe_key(self) -> str:
        return "rk_test_double" if self.uses_double else os.environ[STRIPE_KEY]

    def dsn(self, role: str) -> str:
        return self.postgres.dsn(DATABASE, role, self._password(role))

    def admin_dsn(self) -> str:
        return self.postgres.dsn(DATABASE)

    @cached_property
    def nats(self) -> NatsServer:
        """The broker. Its `url` has the login of an operator who may do everything, which no service has."""
        names = permissions.services()
        services = permissions.authorization({name: self._nats_password(name) for name in names})["users"]
        password = self._nats_password(NATS_OPERATOR)
        users = [{"user": NATS_OPERATOR, "password": password}, *services]
        return NatsServer(
            self.directory / "nats",
            user=NATS_OPERATOR,
            password=password,
            settings={"authorization": {"users": users}},
        )

    def nats_url(self, service: str, port: int = 0) -> str:
        """What a service connects to, with its own login; through a proxy's `port` if given."""
        return self.nats.url_of(service, self._nats_password(service), port)

    @property
    def nats_url_file(self) -> Path:
        """Holds the URL with the operator's login, for the tools of NATS."""
        return self.directory / "operator.nats-url"

    # --- who may call

    def token(self) -> str:
        """A token that is valid now, of an operator who may make all calls except those between services."""
        return self.keys.operator_token()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries to be the operator's."""
        return channels.metadata(self.token())

    def channel(self, service: str, options: Sequence[tuple[str, Any]] = ()) -> aio.Channel:
        """A channel to a service, on which all calls are the operator's."""
        return channels.channel(self.address(service), self.token, options)

    @property
    def token_file(self) -> Path:
        """The file of the operator's token, written when the mesh starts or the key is replaced."""
        return self.keys.token_file

    # --- lifecycle

    async def start(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Starts parts that are not running. `progress` is called with a line of text at each step."""
        was = close_to_others(self.directory)
        if was is not None:
            progress(f"{self.directory} is closed to others now: its mode was {was:04o}")
        self.keys.publish()
        progress("Postgres and NATS")
        await asyncio.gather(asyncio.to_thread(self.postgres.start), asyncio.to_thread(self.nats.start))
        write_secret(self.nats_url_file, self.nats.url)
        progress("schemas and roles")
        await asyncio.to_thread(self._prepare_database)
        double = [self._double()] if self.uses_double and "publisher" in self.options.services else []
        progress("services: " + ", ".join([*self.options.services, *(spec.name for spec in double)]))
        # Channels connect lazily, so that the order of start does not matter.
        specs = [*double, *(self._service(name, {}) for name in self.options.services)]
        await asyncio.gather(*map(self.supervisor.start, specs))
        Placement(self.directory, {name: self.address(name) for name in SERVICES}, self.stripe_url).write()

    async def start_service(self, service: str, **environment: str) -> None:
        """Starts one service, with more variables if given."""
        await self.supervisor.start(self._service(service, environment))

    async def start_replica(self, service: str, name: str) -> None:
        """Starts another process of a service; `name` is the key of its address."""
        ports = {
            "METERLINE_GRPC_PORT": str(self._port(name)),
            "METERLINE_METRICS_PORT": str(self._port(f"{name}-metrics")),
        }
        spec = self._service(service, ports)
        await self.supervisor.start(replace(spec, name=name, log_file=self._log(name)))

    async def stop(self) -> None:
        await self.supervisor.stop()
        await asyncio.gather(asyncio.to_thread(self.nats.close), asyncio.to_thread(self.postgres.close))

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as unless_started:
            unless_started.push_async_callback(self.stop)
            await self.start()
            unless_started.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- parts

    def _password(self, role: str) -> str:
        return self._passwords.get(role, lambda: secrets.token_urlsafe(24))

    def _nats_password(self, user: str) -> str:
        return self._password(f"nats_{user}")

    def _port(self, name: str) -> int:
        if name not in self._leases:
            self._leases[name] = reserve_port()
        return self._leases[name].port

    def _prepare_database(self) -> None:
        if not self._has_database():
            self.postgres.create_database(DATABASE)
        roles = [
            role(name) for name in provision.SERVICES for role in (provision.owner_role, provision.app_role)
        ]
        provision.provision(self.admin_dsn(), {role: self._password(role) for role in roles})
        for service in SERVICES:
            migrate.apply(self.dsn(provision.owner_role(service)), service, migrate.for_service(service))

    def _has_database(self) -> bool:
        with psycopg.connect(self.postgres.dsn("postgres")) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            return found.fetchone() is not None

    def _double(self) -> ChildSpec:
        database = self.directory / "stripe.sqlite"
        return ChildSpec(
            name=STRIPE_DOUBLE,
            argv=[
                sys.executable,
                "-m",
                "meterline_dev.stripe_double",
                f"--port={self._port(STRIPE_DOUBLE)}",
                f"--db={database}",
            ],
            env={**os.environ, CONTROL_KEY: self.keys.double_control_key},
            log_file=self._log(STRIPE_DOUBLE),
            ready=re.compile(r"^http://"),
            ready_timeout=_READY_SECONDS,
        )

    def _service(self, service: str, more: Mapping[str, str]) -> ChildSpec:
        return ChildSpec(
            name=service,
            argv=self.options.programs.get(service, [sys.executable, "-m", f"meterline_{service}.main"]),
            env=self._environment(service) | dict(self.options.environment.get(service, {})) | dict(more),
            log_file=self._log(service),
            ready=_SERVICE_READY,
            ready_timeout=_READY_SECONDS,
            restart=self.options.restart,
        )

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _environment(self, service: str) -> dict[str, str]:
        addresses = {f"METERLINE_{name.upper()}_ADDRESS": self.address(name) for name in SERVICES}
        if "publisher" not in self.options.services:
            # Identity asks it about plans when it has the address.
            del addresses["METERLINE_PUBLISHER_ADDRESS"]
        return {
            # glibc keeps an arena a thread otherwise, which costs tens of megabytes a process.
            "MALLOC_ARENA_MAX": "2",
            **os.environ,
            **addresses,
            "METERLINE_DATABASE_URL": self.dsn(provision.app_role(service)),
            "METERLINE_NATS_URL": self.nats_url(service),
            "METERLINE_NATS_MONITOR_URL": self.nats.monitor_url,
            "METERLINE_SERVICE_KEY": self.keys.private(service),
            "METERLINE_SERVICE_PUBLIC_KEYS_FILE": str(self.keys.public_keys_file),
            "METERLINE_MASTER_KEYS": self.keys.master_keys,
            "METERLINE_GRPC_PORT": str(self._port(service)),
            "METERLINE_METRICS_PORT": str(self._port(f"{service}-metrics")),
            "METERLINE_STRIPE_API_BASE": self.stripe_url,
            STRIPE_KEY: self.stripe_key,
        }
