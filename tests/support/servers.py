"""Real Postgres and NATS servers: one of each a test process, or one of its own for a test that harms it."""

from __future__ import annotations

from meterline_dev.testing import durable_postgres, nats_server, postgres_server

__all__ = ["durable_postgres", "nats_server", "postgres_server"]
