"""Load of corrections: each is retried, under the same id, until it is answered."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc import aio
from meterline.ids import new_id
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import corrections_pb2 as pb
from meterline_protos.ingest.v1 import corrections_pb2_grpc

from tests.fault.load import CALL_SECONDS, TENANTS, Expected
from tests.support.capture import Sample
from tests.support.corrections_calls import WHO

T = TypeVar("T")

# Statuses of calls while the service is unavailable, or while an earlier attempt may still be executed.
_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class CorrectionsLoad:
    """Amends, retracts and imports random events until stopped, and records the expected events."""

    def __init__(self, mesh: Mesh, expected: Expected, *, seed: int = 11) -> None:
        self._mesh = mesh
        self._expected = expected
        self._random = random.Random(seed)
        self.done = 0
        self.repeated = 0
        self._progress = asyncio.Event()
        self._failure: Exception | None = None
        # Remaining events of those imported here, by tenant.
        self._mine: dict[str, set[str]] = {tenant: set() for tenant in TENANTS}

    async def run_until(self, stop: asyncio.Event) -> None:
        try:
            await self._run_until(stop)
        except Exception as error:
            # Wakes callers of `more`, which would otherwise wait until their timeout.
            self._failure = error
            self._progress.set()
            raise

    async def _run_until(self, stop: asyncio.Event) -> None:
        quick = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        async with self._mesh.channel("ingest", quick) as channel:
            stub = corrections_pb2_grpc.CorrectionsServiceStub(channel)
            # Events to correct, which no other load reports.
            for tenant in TENANTS:
                await self._bring(stub, tenant)
            while not stop.is_set():
                tenant = self._random.choice(TENANTS)
                few = len(self._mine[tenant]) < 10
                kinds = [self._amend, self._amend, self._retract, self._many, self._bring]
                await (self._bring if few else self._random.choice(kinds))(stub, tenant)
                self.done += 1
                self._progress.set()

    async def more(self, corrections: int, *, seconds: float = 60.0) -> None:
        """Waits until `corrections` more calls are answered. Raises the error that ended the load."""
        goal = self.done + corrections
        async with asyncio.timeout(seconds):
            while self.done < goal:
                if self._failure is not None:
                    raise self._failure
                self._progress.clear()
                await self._progress.wait()

    async def _bring(self, stub: corrections_pb2_grpc.CorrectionsServiceAsyncStub, tenant: str) -> None:
        samples = [Sample(quantities={"units": str(self._random.randrange(1_000))}) for _ in range(20)]
        self._expected.add(tenant, samples)
        self._mine[tenant] |= {sample.id for sample in samples}
        request = pb.ImportEventsRequest(tenant_id=tenant, source="fault", import_id=str(new_id()), **WHO)
        request.rows.events.extend(sample.to_row() for sample in samples)
        while True:
            answer = await self._answer(stub.ImportEvents, request)
            if answer is not None:
                assert answer.accepted + answer.duplicate == len(samples), answer
                return

    async def _amend(self, stub: corrections_pb2_grpc.CorrectionsServiceAsyncStub, tenant: str) -> None:
        (event_id,) = self._some(tenant, 1)
        units = self._random.randrange(1_000)
        self._expected.units[tenant][event_id] = units
        changes = pb.EventChanges(quantities={"units": str(units)})
        request = pb.AmendEventRequest(
            tenant_id=tenant, event_id=event_id, changes=changes, correction_id=str(uuid.uuid4()), **WHO
        )
        while await self._answer(stub.AmendEvent, request) is None:
            pass

    async def _retract(self, stub: corrections_pb2_grpc.CorrectionsServiceAsyncStub, tenant: str) -> None:
        (event_id,) = self._some(tenant, 1)
        self._forget(tenant, [event_id])
        request = pb.RetractEventRequest(
            tenant_id=tenant, event_id=event_id, correction_id=str(uuid.uuid4()), **WHO
        )
        while await self._answer(stub.RetractEvent, request) is None:
            pass

    async def _many(self, stub: corrections_pb2_grpc.CorrectionsServiceAsyncStub, tenant: str) -> None:
        chosen = self._some(tenant, 5)
        self._forget(tenant, chosen)
        request = pb.CorrectEventsRequest(
            tenant_id=tenant,
            ids=pb.EventIds(event_ids=chosen),
            retract=pb.Retraction(),
            correction_id=str(uuid.uuid4()),
            **WHO,
        )
        while True:
            answer = await self._answer(stub.CorrectEvents, request)
            if answer is not None and answer.complete:
                assert (answer.corrected, answer.failed) == (len(chosen), 0), answer
                return

    async def _answer(self, call: Callable[..., Awaitable[T]], request: object) -> T | None:
        try:
            return await call(request, timeout=CALL_SECONDS, wait_for_ready=True)
        except aio.AioRpcError as error:
            if error.code() not in _AGAIN:
                raise
            self.repeated += 1
            return None

    def _some(self, tenant: str, count: int) -> list[str]:
        return self._random.sample(sorted(self._mine[tenant]), count)

    def _forget(self, tenant: str, event_ids: list[str]) -> None:
        self._mine[tenant] -= set(event_ids)
        for event_id in event_ids:
            del self._expected.units[tenant][event_id]
