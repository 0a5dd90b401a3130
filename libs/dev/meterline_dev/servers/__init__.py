"""Real servers for one machine: Postgres and NATS, from wheels, run as children of this process."""

from meterline_dev.servers.base import Server, ServerError
from meterline_dev.servers.claim import DirectoryInUseError
from meterline_dev.servers.nats import NatsServer
from meterline_dev.servers.nats_sync import (
    NotDurableError,
    SyncPolicy,
    read_sync_policy,
    require_sync_always,
    sync_interval_is_always,
)
from meterline_dev.servers.ports import PortLease, free_port, reserve_port
from meterline_dev.servers.postgres import PostgresServer

__all__ = [
    "DirectoryInUseError",
    "NatsServer",
    "NotDurableError",
    "PortLease",
    "PostgresServer",
    "Server",
    "ServerError",
    "SyncPolicy",
    "free_port",
    "read_sync_policy",
    "require_sync_always",
    "reserve_port",
    "sync_interval_is_always",
]
