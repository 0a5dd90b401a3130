"""Settings, read only from environment variables (`METERLINE_…`) and files of secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from meterline.bus.address import BrokerAddress
from meterline.consuming.breaker import BurialRules
from meterline.rpc.doors import Bounds

# A refused value may be a secret, and errors at the start are logged.
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
    """libpq URL of the service's own database role."""
    database_pool_size: int = Field(default=8, ge=1, le=200)
    nats_url: SecretStr = SecretStr("nats://127.0.0.1:4222")
    """nats://user:password@host:port of the broker, with the login of this service."""
    nats_monitor_url: str = ""
    """The broker's HTTP monitoring address; used to check that it syncs every message before its ack."""
    bind_host: str = "127.0.0.1"
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Port of the API. 0 lets the system choose; the address is printed when the service is ready."""
    metrics_port: int = Field(default=0, ge=-1, le=65535)
    """Port of the Prometheus metrics; 0 lets the system choose, -1 serves none."""
    authentication: Literal["required", "off"] = "required"
    """`off` allows every caller everything. Development only."""
    service_key: SecretStr | None = None
    """Ed25519 private key in PEM, of this service only: signs the tokens for its calls to other services."""
    service_public_keys: str = ""
    """Ed25519 public keys of all services and operators, each with its owner; see `auth.public_keys`."""
    service_public_keys_file: Path | None = None
    """A file with the public keys, instead; changes take effect within 2 seconds."""
    credential_fresh_seconds: float = Field(default=2.0, gt=0, le=60)
    """How long API keys and signing keys are cached before identity verifies them again."""
    credential_stale_seconds: float = Field(default=30.0, gt=0, le=300)
    """How long cached keys are accepted when identity does not answer."""
    tls_certificate_file: Path | None = None
    """PEM certificate chain of the server; with it and `tls_key_file` calls are served over TLS only."""
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    """PEM certificate of an authority: only callers with a certificate of it are served."""
    tls_peer_ca_file: Path | None = None
    """PEM certificate of an authority: other services are called over TLS, and must have a certificate of
    it."""
    max_calls: int = Field(default=10_000, ge=1)
    """Most concurrent calls of authenticated callers."""
    max_unknown_calls: int = Field(default=200, ge=1)
    """Most concurrent calls whose callers are still being authenticated."""
    max_signed_calls: int = Field(default=1_000, ge=1)
    """Most concurrent calls with a signature instead of a token, and as many more whose body is arriving."""
    max_watches: int = Field(default=100, ge=1)
    """Most concurrent streams of health and reflection, which need no authentication."""
    max_connections: int = Field(default=2_000, ge=1, le=1_000_000)
    """Most concurrent connections; further ones are closed immediately."""
    max_streams_per_connection: int = Field(default=1_000, ge=1, le=1_000_000)
    """Most concurrent calls on one connection; further ones wait in the client."""
    connection_age_seconds: float = Field(default=3_600, ge=1, le=604_800)
    """Age at which clients are asked to reconnect, so that they spread over replicas. Calls do not fail."""
    connection_age_grace_seconds: float = Field(default=3_600, ge=1, le=604_800)
    """How long calls in progress at that age may still take before the connection is closed."""
    connection_idle_seconds: float = Field(default=600, ge=1, le=604_800)
    """A connection without calls is closed after this time."""
    handshake_seconds: float = Field(default=20, ge=1, le=120)
    """A connection that has not completed its handshake by then is closed."""
    shutdown_drain_seconds: float = Field(default=0.0, ge=0)
    """How long health reports NOT_SERVING before calls are refused, so that load balancers notice."""
    shutdown_grace_seconds: float = Field(default=10.0, ge=0)
    allow_unsynced_jetstream: bool = False
    """Start even if the broker may lose acknowledged messages at a power loss. Development only."""
    allow_open_broker: bool = False
    """Start even if the broker accepts clients without a login, who can then publish messages. Development
    only."""
    jetstream_replicas: int = Field(default=1, ge=1, le=5)
    ack_wait_seconds: float = Field(default=30, ge=1, le=3_600)
    """Time after which the broker delivers an unacknowledged message again. A message whose handling takes
    longer is delivered again too, and recognised by the inbox."""
    message_patience_seconds: float = Field(default=86_400, gt=0, le=172_800)
    """Age at which a message that keeps failing or waiting becomes a dead letter; must be less than the
    broker's retention."""
    breaker_window: int = Field(default=20, ge=1, le=10_000)
    """Number of recent messages that a consumer considers; it stops when too many of them are poison."""
    breaker_percent: int = Field(default=90, ge=1, le=100)
    """A consumer stops when the percentage of poison exceeds this. With 100 it never stops, and all poison
    becomes dead letters."""
    breaker_cooldown_seconds: float = Field(default=5, gt=0)
    """How long a stopped consumer waits before it tries one message; doubles after each failure."""
    breaker_longest_cooldown_seconds: float = Field(default=300, gt=0)
    log_level: str = "INFO"
    trace_ui_url: str = ""
    """Template for links to traces, for example `http://jaeger:16686/trace/{trace_id}`."""

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
        """The bounds of the service's server."""
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
