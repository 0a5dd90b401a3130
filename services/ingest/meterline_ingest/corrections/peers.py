"""The read-only requests that ingest makes about the effect of a change."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeVar

from grpc import aio
from meterline.decimals import to_text
from meterline.errors import UnavailableError
from meterline.rpc.client import Caller, Link
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc, usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.publisher.v1 import invoices_pb2, invoices_pb2_grpc

from meterline_ingest.corrections.rules.effects import InvoiceEffect, WindowEffect

T = TypeVar("T")

_SUMS = (types_pb2.AGGREGATION_COUNT, types_pb2.AGGREGATION_SUM)


class PeerUnavailableError(UnavailableError):
    """A service does not answer; the text begins with the name of a gRPC status."""


class Peer(Link):
    """A service whose address may be unknown."""

    @property
    def channel(self) -> aio.Channel:
        """Raises PeerUnavailableError."""
        try:
            return super().channel
        except UnavailableError as error:
            raise PeerUnavailableError(f"UNAVAILABLE: {error}") from error

    async def ask(self, call: Awaitable[T]) -> T:
        """Raises PeerUnavailableError."""
        try:
            return await call
        except aio.AioRpcError as error:
            raise PeerUnavailableError(f"{error.code().name}: {self.name}: {error.details()}") from error


class Aggregate(Peer):
    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("aggregate", address, caller)

    async def sums(self) -> set[str]:
        """Meters whose values are sums, so that the effects of several changes add up."""
        stub = meters_pb2_grpc.MetersServiceStub(self.channel)
        answer = await self.ask(stub.ListMeters(meters_pb2.ListMetersRequest()))
        return {meter.name for meter in answer.meters if meter.aggregation in _SUMS}

    async def preview(self, tenant: str, message: bytes) -> list[WindowEffect]:
        """The effect of an `EventsAccepted` of the tenant on days and months."""
        request = usage_pb2.PreviewChangesRequest(tenant_id=tenant, events=message)
        answer = await self.ask(usage_pb2_grpc.UsageServiceStub(self.channel).PreviewChanges(request))
        return [
            WindowEffect(
                window.meter,
                window.grain,
                window.start_time.ToDatetime(UTC),
                window.end_time.ToDatetime(UTC),
                Decimal(window.value_before),
                Decimal(window.value_after) if window.value_after else None,
                window.event_count_before,
                window.event_count_after,
            )
            for window in answer.windows
        ]


class Publisher(Peer):
    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("publisher", address, caller)

    async def preview(
        self, tenant: str, at: datetime, changes: Mapping[str, Decimal | None]
    ) -> InvoiceEffect:
        """The invoice of the period that `at` lies in, with and without changes of usage by meter."""
        now = await self._invoice(tenant, at, [])
        known = [
            invoices_pb2.UsageChange(meter=meter, delta=to_text(delta))
            for meter, delta in changes.items()
            if delta
        ]
        then = await self._invoice(tenant, at, known) if known else now
        return InvoiceEffect(
            now.invoice.period_start.ToDatetime(UTC),
            now.invoice.period_end.ToDatetime(UTC),
            now.invoice.currency,
            now.invoice.total,
            then.invoice.total,
            now.final_invoice_id,
            tuple(sorted(meter for meter, delta in changes.items() if delta is None)),
        )

    async def _invoice(
        self, tenant: str, at: datetime, changes: Sequence[invoices_pb2.UsageChange]
    ) -> invoices_pb2.PreviewInvoiceResponse:
        request = invoices_pb2.PreviewInvoiceRequest(tenant_id=tenant, changes=changes)
        request.at.FromDatetime(at)
        return await self.ask(invoices_pb2_grpc.InvoicesServiceStub(self.channel).PreviewInvoice(request))
