"""Real Postgres and NATS servers: one of each for a test process, and separate ones for destructive tests."""

from __future__ import annotations

from meterline_dev.testing import durable_postgres, nats_server, postgres_server

__all__ = ["durable_postgres", "nats_server", "postgres_server"]
