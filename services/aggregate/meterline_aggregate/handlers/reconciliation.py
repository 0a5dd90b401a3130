"""What ingest has accepted is held against what was folded here."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from grpc import aio
from meterline.db.pool import Database
from meterline.errors import NotFoundError, UnavailableError
from meterline.rpc import client
from meterline.telemetry import metrics
from meterline.telemetry.logging import logger
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

from meterline_aggregate.repository import usage

log = logger()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Events of one tenant."""

    tenant: str
    accepted: int
    aggregated: int

    @property
    def gap(self) -> int:
        """On their way or lost (positive), or counted twice (negative)."""
        return self.accepted - self.aggregated


class IngestTotals:
    """Asks ingest. `start` and `stop` may be called twice."""

    def __init__(self, address: str, caller: client.Caller) -> None:
        self._address = address
        self._caller = caller
        self._channel: aio.Channel | None = None

    async def start(self) -> None:
        if self._channel is None and self._address:
            self._channel = client.channel(self._address, self._caller)

    async def stop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def get(self, tenant: str) -> dict[str, int]:
        """Events accepted of each tenant, or of the one that `tenant` names. Raises UnavailableError."""
        if self._channel is None:
            raise UnavailableError("no address of ingest is configured")
        stub: events_pb2_grpc.EventsServiceAsyncStub = events_pb2_grpc.EventsServiceStub(self._channel)
        try:
            answer = await stub.GetTotals(events_pb2.GetTotalsRequest(tenant_id=tenant))
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise client.as_unavailable("ingest", error) from error
        return {total.tenant_id: total.accepted for total in answer.totals}


class Reconciler:
    """Compares, and tells the metric what should have arrived by now."""

    def __init__(self, database: Database, ingest: IngestTotals) -> None:
        self._database = database
        self._ingest = ingest
        self._accepted_before: dict[str, int] | None = None

    async def compare(self, tenant: str = "") -> list[Comparison]:
        """All tenants, or the one named, by name. Raises UnavailableError and NotFoundError."""
        # In this order events on their way can only look missing, and never counted twice.
        async with self._database.connection() as connection:
            aggregated = await usage.totals(connection, tenant)
        accepted = await self._ingest.get(tenant)
        if tenant and tenant not in aggregated and tenant not in accepted:
            raise NotFoundError("tenant", tenant)
        if not tenant:
            self._measure(accepted, aggregated)
        return [
            Comparison(name, accepted.get(name, 0), aggregated.get(name, 0))
            for name in sorted(accepted.keys() | aggregated.keys())
        ]

    async def watch(self) -> None:
        """Compares for the metric's sake."""
        try:
            await self.compare()
        except UnavailableError as error:
            log.warning("reconciliation.unavailable", error=str(error))

    def _measure(self, accepted: dict[str, int], aggregated: dict[str, int]) -> None:
        """What had been accepted at the comparison before has had its time to arrive (at the first one,
        everything counts); and what is folded twice is wrong at once."""
        due = accepted if self._accepted_before is None else self._accepted_before
        missing = sum(max(0, count - aggregated.get(name, 0)) for name, count in due.items())
        doubled = sum(max(0, count - accepted.get(name, 0)) for name, count in aggregated.items())
        metrics.CONSERVATION_GAP.set(missing + doubled)
        self._accepted_before = accepted
