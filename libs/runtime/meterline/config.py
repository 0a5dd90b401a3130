"""Settings, from environment variables (`METERLINE_…`) or files of secrets, and from nowhere else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterline.bus.address import BrokerAddress
from meterline.consuming.breaker import BurialRules
from meterline.rpc.doors import Bounds

# A refused value may be a secret, and what is raised at the start goes to a log.
_SOURCES = SettingsConfigDict(env_prefix="METERLINE_", extra="ignore", hide_input_in_errors=True)

S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S]) -> S:
    """Settings of this kind. METERLINE_SECRETS_DIR may name a folder with files named like the variables
    (as Kubernetes mounts secrets); variables win over files. Raises pydantic.ValidationError."""
    return kind(_secrets_dir=os.environ.get("METERLINE_SECRETS_DIR"))


class MigrationSettings(BaseSettings):
    """The settings of a service's migration runner."""

    model_config = _SOURCES

    owner_database_url: SecretStr
    """libpq URL of the role that owns the service's schema."""


class ServiceSettings(BaseSettings):
    """The settings that every service has; see `load`."""

    model_config = _SOURCES

    database_url: SecretStr
    """libpq URL of the service's own role."""
    database_pool_size: int = Field(default=8, ge=1, le=200)
    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    """nats://user:password@host:port of the broker, with the login of this service."""
    nats_monitor_url: str = ""
    """HTTP monitoring address of the broker, to check that it syncs every message before its ack."""
    bind_host: str = "127.0.0.1"
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """0 lets the system choose; the address is printed when the service is ready."""
    metrics_port: int = Field(default=0, ge=-1, le=65535)
    """Prometheus; -1 serves none."""
    authentication: Literal["required", "off"] = "required"
    """`off` lets every caller do everything. Development only."""
    service_key: SecretStr | None = None
    """Ed25519 private key in PEM, of this service alone: signs the tokens that it calls others with."""
    service_public_keys: str = ""
    """Ed25519 public keys of all services and of operators, each with its owner: see `auth.public_keys`."""
    service_public_keys_file: Path | None = None
    """A file of them instead, read again within 2 seconds of a change: a key removed from it is refused."""
    credential_fresh_seconds: float = Field(default=2.0, gt=0, le=60)
    """How long API keys and signing keys are accepted without asking identity again."""
    credential_stale_seconds: float = Field(default=30.0, gt=0, le=300)
    """How long they are accepted when identity does not answer."""
    tls_certificate_file: Path | None = None
    """PEM chain of the server; with `tls_key_file` calls are served over TLS only."""
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    """PEM: only callers with a certificate of this authority are served."""
    tls_peer_ca_file: Path | None = None
    """PEM: other services are called over TLS, and must have a certificate of this authority."""
    max_calls: int = Field(default=10_000, ge=1)
    """Calls of known callers at once."""
    max_unknown_calls: int = Field(default=200, ge=1)
    """Calls at once whose callers are being looked up."""
    max_signed_calls: int = Field(default=1_000, ge=1)
    """Concurrent calls with a signature in place of a token, and as many more that are arriving."""
    max_watches: int = Field(default=100, ge=1)
    """Streams at once of health and reflection, which are open to everybody."""
    max_connections: int = Field(default=2_000, ge=1, le=1_000_000)
    """Concurrent connections; further ones are closed at once."""
    max_streams_per_connection: int = Field(default=1_000, ge=1, le=1_000_000)
    """Calls at once on one connection; further ones wait in the client."""
    connection_age_seconds: float = Field(default=3_600, ge=1, le=604_800)
    """Age at which clients are asked to reconnect, so that they spread over replicas. No call fails by it."""
    connection_age_grace_seconds: float = Field(default=3_600, ge=1, le=604_800)
    """How long calls that are under way by then may still take. Then they are cut."""
    connection_idle_seconds: float = Field(default=600, ge=1, le=604_800)
    """A connection that has no call for so long is closed."""
    handshake_seconds: float = Field(default=20, ge=1, le=120)
    """A connection that has not begun to speak HTTP/2 by then is closed."""
    shutdown_drain_seconds: float = Field(default=0.0, ge=0)
    """How long to answer NOT_SERVING before calls are refused, for load balancers to notice."""
    shutdown_grace_seconds: float = Field(default=10.0, ge=0)
    allow_unsynced_jetstream: bool = False
    """Start although the broker may lose acknowledged messages at power loss. Development only."""
    allow_open_broker: bool = False
    """Start although the broker lets clients in without a login, so that anybody who reaches it can publish
    facts. Development only."""
    jetstream_replicas: int = Field(default=1, ge=1, le=5)
    ack_wait_seconds: float = Field(default=30, ge=1, le=3_600)
    """Time after which the broker delivers an unacknowledged message again. A message that only takes longer
    is delivered again as well, and then found in the inbox."""
    message_patience_seconds: float = Field(default=86_400, gt=0, le=172_800)
    """When a message that only ever failed or had to wait is given up: before the broker drops it."""
    breaker_window: int = Field(default=20, ge=1, le=10_000)
    """How many recent messages a consumer considers; it stops when too many of them are poison."""
    breaker_percent: int = Field(default=90, ge=1, le=100)
    """A greater share of poison, in percent, stops it; with 100 it never stops, and buries all poison."""
    breaker_cooldown_seconds: float = Field(default=5, gt=0)
    """How long a stopped consumer waits before it tries one message; twice as long after each failure."""
    breaker_longest_cooldown_seconds: float = Field(default=300, gt=0)
    log_level: str = "INFO"
    trace_ui_url: str = ""
    """Address of a trace, with `{trace_id}` in it, for example `http://jaeger:16686/trace/{trace_id}`."""

    @property
    def burial_rules(self) -> BurialRules:
        """When consumers of the service bury messages."""
        return BurialRules(
            self.message_patience_seconds,
            self.breaker_window,
            self.breaker_percent,
            self.breaker_cooldown_seconds,
            self.breaker_longest_cooldown_seconds,
        )

    @property
    def bounds(self) -> Bounds:
        """What the server of the service is made with."""
        return Bounds(
            calls=self.max_calls,
            strangers=self.max_unknown_calls,
            signed=self.max_signed_calls,
            watches=self.max_watches,
            connections=self.max_connections,
            streams=self.max_streams_per_connection,
            age_seconds=self.connection_age_seconds,
            age_grace_seconds=self.connection_age_grace_seconds,
            idle_seconds=self.connection_idle_seconds,
            handshake_seconds=self.handshake_seconds,
        )

    @field_validator("nats_url")
    @classmethod
    def _is_address(cls, url: SecretStr) -> SecretStr:
        BrokerAddress.parse(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _can_authenticate(self) -> Self:
        given = bool(self.service_public_keys.strip()) + (self.service_public_keys_file is not None)
        if given == 0 and self.authentication == "required":
            raise ValueError(
                "service_public_keys or service_public_keys_file is needed, "
                "or authentication=off for development"
            )
        if given > 1:
            raise ValueError("service_public_keys or service_public_keys_file, and not both")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file are needed together")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_client_ca_file needs tls_certificate_file")
        return self
