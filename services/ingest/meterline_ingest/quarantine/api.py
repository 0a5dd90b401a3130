"""QuarantineService."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc import aio
from meterline.auth.principals import Permission
from meterline.auth.rules import demand
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields, paging
from meterline.telemetry import propagation
from meterline_protos.ingest.v1 import capture_pb2, quarantine_pb2, quarantine_pb2_grpc

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.event.outcomes import Kind, Problem, Stage
from meterline_ingest.event_types.cache import TypeRegistry
from meterline_ingest.quarantine import service as handlers
from meterline_ingest.quarantine.replay import QuarantineReplayer
from meterline_ingest.quarantine.rules import MAX_IDS, QuarantineFilter, State, hidden
from meterline_ingest.quarantine.service import Content, QuarantineAccess
from meterline_ingest.quarantine.store import Quarantined

Context = aio.ServicerContext[Any, Any]
Selection = quarantine_pb2.ReplayQuarantinedRequest | quarantine_pb2.DiscardQuarantinedRequest

_STAGES: Final = {
    Stage.READ: quarantine_pb2.QUARANTINE_STAGE_READ,
    Stage.VALIDATE: quarantine_pb2.QUARANTINE_STAGE_VALIDATE,
    Stage.ENRICH: quarantine_pb2.QUARANTINE_STAGE_ENRICH,
}
_STATES: Final = {
    State.WAITING: quarantine_pb2.QUARANTINE_STATE_WAITING,
    State.REPLAYED: quarantine_pb2.QUARANTINE_STATE_REPLAYED,
    State.DISCARDED: quarantine_pb2.QUARANTINE_STATE_DISCARDED,
}
# A field that is not set is 0.
_ASKED_STAGES: Final[dict[int, Stage | None]] = dict.fromkeys([0]) | {
    number: stage for stage, number in _STAGES.items()
}
_ASKED_STATES: Final = {number: state for state, number in _STATES.items()} | {0: State.WAITING}


class QuarantineServicer(quarantine_pb2_grpc.QuarantineServiceServicer):
    def __init__(self, access: QuarantineAccess, types: TypeRegistry, replayer: QuarantineReplayer) -> None:
        self._access = access
        self._types = types
        self._replayer = replayer

    async def ListQuarantined(
        self, request: quarantine_pb2.ListQuarantinedRequest, context: Context
    ) -> quarantine_pb2.ListQuarantinedResponse:
        limit = paging.size(request.page_size)
        state = _ASKED_STATES.get(request.state)
        if state is None:
            raise InvalidArgumentError("state", "WAITING, REPLAYED or DISCARDED")
        listing = await handlers.list_quarantined(
            self._access,
            request.tenant_id,
            _filter(request.filter),
            state,
            paging.key(request.page_token, paging.instant, paging.identifier),
            limit + 1,
        )
        page = listing.entries[:limit]
        return quarantine_pb2.ListQuarantinedResponse(
            entries=(_to_proto(entry, shredded=listing.shredded) for entry in page),
            next_page_token=(
                paging.token(page[-1].received_at, page[-1].quarantine_id)
                if len(listing.entries) > limit
                else ""
            ),
            waiting=listing.waiting,
        )

    async def GetQuarantined(
        self, request: quarantine_pb2.GetQuarantinedRequest, context: Context
    ) -> quarantine_pb2.GetQuarantinedResponse:
        quarantine_id = fields.identifier("quarantine_id", request.quarantine_id)
        if request.unseal:
            demand(Permission.UNSEAL)
        unsealing = ChangeRequest(request.requested_by, request.reason) if request.unseal else None
        content = await handlers.get_quarantined(
            self._access, self._types, request.tenant_id, quarantine_id, unsealing
        )
        answer = quarantine_pb2.GetQuarantinedResponse(
            entry=_to_proto(content.entry, shredded=content.payload is None)
        )
        _show(answer, content, everything=request.unseal)
        return answer

    async def ReplayQuarantined(
        self, request: quarantine_pb2.ReplayQuarantinedRequest, context: Context
    ) -> quarantine_pb2.ReplayQuarantinedResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        replay = await self._replayer.replay(
            request.tenant_id, _chosen(request), change, dry_run=request.dry_run
        )
        return quarantine_pb2.ReplayQuarantinedResponse(
            accepted=replay.counts[Kind.ACCEPTED],
            duplicate=replay.counts[Kind.DUPLICATE],
            conflict=replay.counts[Kind.CONFLICT],
            rejected=replay.counts[Kind.REJECTED],
            outcomes=(_outcome(entry, problem) for entry, problem in replay.outcomes),
            replay_id="" if request.dry_run else str(replay.replay_id),
        )

    async def DiscardQuarantined(
        self, request: quarantine_pb2.DiscardQuarantinedRequest, context: Context
    ) -> quarantine_pb2.DiscardQuarantinedResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        discarded = await handlers.discard_quarantined(
            self._access, request.tenant_id, _chosen(request), change
        )
        return quarantine_pb2.DiscardQuarantinedResponse(discarded=discarded)


def _chosen(request: Selection) -> QuarantineFilter:
    """Selects everything only on explicit request."""
    match request.WhichOneof("entries"):
        case "ids":
            ids = fields.identifiers("ids.quarantine_ids", request.ids.quarantine_ids, most=MAX_IDS)
            return QuarantineFilter(ids=ids)
        case "filter":
            chosen = _filter(request.filter)
            if chosen == QuarantineFilter():
                raise InvalidArgumentError("filter", "at least one field; set `everything` for all entries")
            return chosen
        case "everything":
            return QuarantineFilter()
        case _:
            raise InvalidArgumentError("entries", "ids, filter or everything")


def _filter(message: quarantine_pb2.QuarantineFilter) -> QuarantineFilter:
    if message.stage not in _ASKED_STAGES:
        raise InvalidArgumentError("filter.stage", "READ, VALIDATE or ENRICH")
    return QuarantineFilter(
        message.event_type,
        message.reason,
        message.field,
        message.source,
        _ASKED_STAGES[message.stage],
        *fields.time_range("filter.received", message.received),
    )


def _show(answer: quarantine_pb2.GetQuarantinedResponse, content: Content, *, everything: bool) -> None:
    """Adds the content, without values that may be sensitive unless `everything` is requested."""
    if content.payload is None:
        return
    if everything:
        answer.payload = content.payload
    try:
        event = capture_pb2.Event.FromString(content.payload)
    except DecodeError:
        return
    if not everything:
        found = hidden(content.definition, event.dimensions, event.quantities, event.properties)
        for field, name in found:
            del getattr(event, field)[name]
        answer.hidden_fields.extend(f"{field}.{name}" for field, name in found)
    answer.event.CopyFrom(event)


def _outcome(entry: Quarantined, problem: Problem) -> quarantine_pb2.ReplayOutcome:
    return quarantine_pb2.ReplayOutcome(
        quarantine_id=entry.quarantine_id.hex,
        event_id=entry.event_id,
        outcome=capture_pb2.Outcome.ValueType(problem.kind),
        reason=problem.reason,
        field=problem.field,
        rule=problem.message,
    )


def _to_proto(entry: Quarantined, *, shredded: bool) -> quarantine_pb2.QuarantinedEvent:
    gone = shredded and entry.state is State.WAITING
    message = quarantine_pb2.QuarantinedEvent(
        quarantine_id=entry.quarantine_id.hex,
        source=entry.source,
        event_id=entry.event_id,
        event_type=entry.event_type,
        stage=_STAGES[entry.stage],
        reason=entry.reason,
        field=entry.field,
        rule=entry.rule,
        trace=propagation.to_proto(entry.trace),
        attempts=entry.attempts,
        state=quarantine_pb2.QUARANTINE_STATE_SHREDDED if gone else _STATES[entry.state],
        settled_by=entry.settled_by,
    )
    message.received_at.FromDatetime(entry.received_at)
    message.last_received_at.FromDatetime(entry.last_received_at)
    if entry.sent_at is not None:
        message.sent_at.FromDatetime(entry.sent_at)
    if entry.settled_at is not None:
        message.settled_at.FromDatetime(entry.settled_at)
    return message
