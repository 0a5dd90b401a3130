"""Calls from the publisher to aggregate and ingest. They only read, or are safe to repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from datetime import datetime
from typing import Final, TypeVar

from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from meterline.calendar import Period
from meterline.errors import NotFoundError
from meterline.metering import Counting
from meterline.remembered.answers import Answers
from meterline.rpc.client import Caller, Link, as_invalid, as_unavailable, is_not_found
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc, usage_pb2, usage_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import events_pb2, events_pb2_grpc

T = TypeVar("T")

_METERS_KEPT_SECONDS: Final = 10.0
_PAGE: Final = 1_000


async def _ask(service: str, call: Awaitable[T], kind: str, name: str, handed_on: Collection[str] = ()) -> T:
    """Awaits the response. Raises NotFoundError, with the kind that the service names (or else `kind`);
    InvalidArgumentError if one of the fields in `handed_on`, which come from our own caller, is invalid; and
    UnavailableError for every other failure."""
    try:
        return await call
    except aio.AioRpcError as error:
        if is_not_found(error):
            raise NotFoundError(_missing(error) or kind, name) from error
        if invalid := as_invalid(error, handed_on):
            raise invalid from error
        raise as_unavailable(service, error) from error


def _missing(error: aio.AioRpcError) -> str:
    """The kind of resource that was not found, from the rich status; empty if the status has none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        resource = error_details_pb2.ResourceInfo()
        if detail.Unpack(resource):
            return str(resource.resource_type)
    return ""


class Aggregate(Link):
    """The aggregate service: windows, and the contributions of batches to them."""

    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("aggregate", address, caller)
        # All meters, under one key.
        self._meters: Answers[None, dict[str, Counting]] = Answers(_METERS_KEPT_SECONDS, most=1)

    async def month(self, tenant: str, meter: str, period: Period) -> usage_pb2.Window | None:
        """The month window of a period; None before its first event. Raises NotFoundError for an unknown
        meter.
        """
        windows = await self._windows(tenant, meter, types_pb2.GRAIN_MONTH, period)
        return windows[0] if windows else None

    async def days(self, tenant: str, meter: str, period: Period) -> Sequence[usage_pb2.Window]:
        """The day windows of a period, ordered by time."""
        return await self._windows(tenant, meter, types_pb2.GRAIN_DAY, period)

    async def contributions(
        self, tenant: str, meter: str, period: Period, page_size: int, page_token: str
    ) -> tuple[Sequence[usage_pb2.Contribution], str]:
        """A page of the contributions of batches to a meter, and the token of the next page."""
        request = usage_pb2.ListContributionsRequest(
            tenant_id=tenant,
            meter=meter,
            range=_range(period.start, period.end),
            page_size=page_size,
            page_token=page_token,
        )
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        call = stub.ListContributions(request)
        answer = await _ask("aggregate", call, "meter", meter, handed_on=["page_token"])
        return answer.contributions, answer.next_page_token

    async def contributions_of(self, tenant: str, batch_id: str) -> Sequence[usage_pb2.Contribution]:
        """The contributions of one batch to all meters."""
        request = usage_pb2.FindContributionsRequest(tenant_id=tenant, batch_id=batch_id)
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        return (await _ask("aggregate", stub.FindContributions(request), "batch", batch_id)).contributions

    async def meters(self, names: Collection[str]) -> dict[str, Counting]:
        """The counting rules of all meters by name. Reads them again if one of `names` is not cached.

        Definitions never change, so cached ones are correct, and only new meters can be missing. A deleted
        meter can stay cached for some seconds; nothing was billed for it.
        """
        known = self._meters.get(None)
        if known is None or not known.keys() >= set(names):
            stub = meters_pb2_grpc.MetersServiceStub(self.channel)
            question = self._meters.ask()
            answer = await _ask("aggregate", stub.ListMeters(meters_pb2.ListMetersRequest()), "meters", "")
            known = {meter.name: counting_of(meter) for meter in answer.meters}
            self._meters.keep(question, None, known)
        return known

    async def refer_to(self, meter: str) -> bool:
        """Whether the meter exists; if so, it can never be deleted from now on. Raises UnavailableError."""
        stub = meters_pb2_grpc.MetersServiceStub(self.channel)
        request = meters_pb2.ReferToMeterRequest(name=meter)
        try:
            await _ask("aggregate", stub.ReferToMeter(request), "meter", meter)
        except NotFoundError:
            return False
        return True

    async def _windows(
        self, tenant: str, meter: str, grain: types_pb2.Grain.ValueType, period: Period
    ) -> Sequence[usage_pb2.Window]:
        request = usage_pb2.QueryUsageRequest(
            tenant_id=tenant,
            meter=meter,
            grain=grain,
            range=_range(period.start, period.end),
            page_size=_PAGE,
        )
        stub = usage_pb2_grpc.UsageServiceStub(self.channel)
        return (await _ask("aggregate", stub.QueryUsage(request), "meter", meter)).windows


class Ingest(Link):
    """The ingest service: raw events, and the batches that they came in."""

    def __init__(self, address: str, caller: Caller) -> None:
        super().__init__("ingest", address, caller)

    async def event(self, tenant: str, event_id: str, source: str) -> events_pb2.GetEventResponse:
        """An event with its batch. Raises NotFoundError."""
        request = events_pb2.GetEventRequest(tenant_id=tenant, event_id=event_id, source=source)
        call = self._stub.GetEvent(request)
        return await _ask("ingest", call, "event", event_id, handed_on=["event_id", "source"])

    async def batches(self, tenant: str, batch_ids: Sequence[str]) -> Sequence[events_pb2.Batch]:
        """The headers of at most 1,000 batches."""
        if not batch_ids:
            return []
        request = events_pb2.GetBatchesRequest(tenant_id=tenant, batch_ids=batch_ids)
        return (await _ask("ingest", self._stub.GetBatches(request), "batches", batch_ids[0])).batches

    async def events(
        self, tenant: str, batch_ids: Sequence[str], event_type: str, time: Period, page_token: str
    ) -> tuple[Sequence[events_pb2.StoredEvent], str]:
        """A page of the events of at most 1,000 batches, ordered by time, and the next page's token."""
        request = events_pb2.ListEventsRequest(
            tenant_id=tenant,
            batch_ids=batch_ids,
            type=event_type,
            time=_range(time.start, time.end),
            page_size=_PAGE,
            page_token=page_token,
        )
        call = self._stub.ListEvents(request)
        answer = await _ask("ingest", call, "batches", batch_ids[0], handed_on=["page_token"])
        return answer.events, answer.next_page_token

    @property
    def _stub(self) -> events_pb2_grpc.EventsServiceAsyncStub:
        return events_pb2_grpc.EventsServiceStub(self.channel)


async def all_contributions(
    aggregate: Aggregate, tenant: str, meter: str, period: Period
) -> AsyncIterator[usage_pb2.Contribution]:
    """Every contribution, from all pages."""
    token = ""
    while True:
        page, token = await aggregate.contributions(tenant, meter, period, _PAGE, token)
        for contribution in page:
            yield contribution
        if not token:
            return


def _range(start: datetime, end: datetime) -> types_pb2.TimeRange:
    found = types_pb2.TimeRange()
    found.start_time.FromDatetime(start)
    found.end_time.FromDatetime(end)
    return found


def counting_of(meter: meters_pb2.Meter) -> Counting:
    unique = meter.aggregation == types_pb2.AGGREGATION_UNIQUE
    return Counting(
        meter.event_type,
        dict(meter.filter),
        meter.quantity,
        meter.unique_dimension,
        of_subjects=unique and not meter.unique_dimension,
    )
