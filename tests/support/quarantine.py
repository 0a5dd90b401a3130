"""Calls of QuarantineService for tests, and queries of its table."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from grpc import aio
from meterline.telemetry import metrics
from meterline_protos.ingest.v1 import quarantine_pb2, quarantine_pb2_grpc

from tests.support.capture import Sample
from tests.support.databases import TestDatabase

BY_ANN = {"requested_by": "ann@example.com", "reason": "ticket 17"}
EVERYTHING = quarantine_pb2.EverythingQuarantined()


def bad(**changes: object) -> Sample:
    """An event of an unknown type."""
    return Sample(**({"type": "nope"} | changes))  # type: ignore[arg-type]


@dataclass
class QuarantineApi:
    """Calls for one tenant."""

    channel: aio.Channel
    tenant_id: str = "acme"

    @property
    def stub(self) -> quarantine_pb2_grpc.QuarantineServiceAsyncStub:
        return quarantine_pb2_grpc.QuarantineServiceStub(self.channel)

    async def page(self, **more: object) -> quarantine_pb2.ListQuarantinedResponse:
        request = quarantine_pb2.ListQuarantinedRequest(tenant_id=self.tenant_id, **more)  # type: ignore[arg-type]
        answer: quarantine_pb2.ListQuarantinedResponse = await self.stub.ListQuarantined(request)
        return answer

    async def entries(self, **more: object) -> list[quarantine_pb2.QuarantinedEvent]:
        """All entries of all pages."""
        found: list[quarantine_pb2.QuarantinedEvent] = []
        token = ""
        while True:
            answer = await self.page(page_token=token, **more)
            found += answer.entries
            token = answer.next_page_token
            if not token:
                return found

    async def get(self, quarantine_id: str, **more: object) -> quarantine_pb2.GetQuarantinedResponse:
        request = quarantine_pb2.GetQuarantinedRequest(
            tenant_id=self.tenant_id,
            quarantine_id=quarantine_id,
            **more,  # type: ignore[arg-type]
        )
        answer: quarantine_pb2.GetQuarantinedResponse = await self.stub.GetQuarantined(request)
        return answer

    async def replay(self, **more: object) -> quarantine_pb2.ReplayQuarantinedResponse:
        """By default all entries."""
        chosen = more if more.keys() & {"ids", "filter"} else {"everything": EVERYTHING, **more}
        request = quarantine_pb2.ReplayQuarantinedRequest(
            **{"tenant_id": self.tenant_id, **BY_ANN, **chosen}  # type: ignore[arg-type]
        )
        answer: quarantine_pb2.ReplayQuarantinedResponse = await self.stub.ReplayQuarantined(request)
        return answer

    async def discard(self, **more: object) -> int:
        """By default all entries."""
        chosen = more if more.keys() & {"ids", "filter"} else {"everything": EVERYTHING, **more}
        request = quarantine_pb2.DiscardQuarantinedRequest(
            **{"tenant_id": self.tenant_id, **BY_ANN, **chosen}  # type: ignore[arg-type]
        )
        return int((await self.stub.DiscardQuarantined(request)).discarded)


def stored_entries(database: TestDatabase, columns: str) -> list[tuple[object, ...]]:
    """Columns of all entries of all tenants, in the order of first receipt."""
    with psycopg.connect(database.admin_dsn) as connection:
        return connection.execute(
            f"SELECT {columns} FROM ingest.quarantine ORDER BY tenant_id, received_at, quarantine_id"
        ).fetchall()


def counts_are_right(database: TestDatabase) -> bool:
    """Whether the stored counts equal those of the rows: the waiting entries, and the bytes of all."""
    with psycopg.connect(database.admin_dsn) as connection:
        counted = connection.execute(
            "SELECT tenant_id, count(*) FILTER (WHERE state = 'waiting'), sum(octet_length(payload) + 512)"
            " FROM ingest.quarantine GROUP BY 1 ORDER BY 1"
        ).fetchall()
        kept = connection.execute(
            "SELECT tenant_id, waiting, bytes FROM ingest.quarantine_counts WHERE bytes > 0 ORDER BY 1"
        ).fetchall()
    return counted == kept


def refused_events() -> float:
    """The number of rejected events that this process did not store, over all tenants."""
    return sum(
        sample.value
        for metric in metrics.QUARANTINE_REFUSED.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
