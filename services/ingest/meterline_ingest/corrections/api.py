"""CorrectionsService."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from grpc import aio
from meterline.auth.principals import current_principal
from meterline.clock import Clock
from meterline.errors import InvalidArgumentError
from meterline.ids import new_id
from meterline.rpc import fields, paging
from meterline.tasks import in_thread
from meterline_protos.ingest.v1 import capture_pb2, corrections_pb2, corrections_pb2_grpc
from opentelemetry import trace

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.capture import api as capture_api
from meterline_ingest.capture.call import Origin, Result
from meterline_ingest.capture.parse import wire
from meterline_ingest.corrections import correct_many, correct_one, messages
from meterline_ingest.corrections.correct_many import Progress, Selection
from meterline_ingest.corrections.correct_one import Call, CorrectionContext, Target
from meterline_ingest.corrections.imports import Imports
from meterline_ingest.corrections.rules.changes import Changes
from meterline_ingest.corrections.rules.history import Correction, CorrectionFilter
from meterline_ingest.event import ids as event_ids
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event_types.cache import TypeRegistry

Context = aio.ServicerContext[Any, Any]

Correcting = (
    corrections_pb2.AmendEventRequest
    | corrections_pb2.RetractEventRequest
    | corrections_pb2.CorrectEventsRequest
)


class CorrectionsServicer(corrections_pb2_grpc.CorrectionsServiceServicer):
    def __init__(
        self, context: CorrectionContext, imports: Imports, types: TypeRegistry, clock: Clock
    ) -> None:
        self._context = context
        self._imports = imports
        self._types = types
        self._clock = clock

    async def AmendEvent(
        self, request: corrections_pb2.AmendEventRequest, context: Context
    ) -> corrections_pb2.AmendEventResponse:
        made, effect = await self._correct(request, messages.changes(request.changes))
        return corrections_pb2.AmendEventResponse(correction=made, effect=effect)

    async def RetractEvent(
        self, request: corrections_pb2.RetractEventRequest, context: Context
    ) -> corrections_pb2.RetractEventResponse:
        made, effect = await self._correct(request, None)
        return corrections_pb2.RetractEventResponse(correction=made, effect=effect)

    async def CorrectEvents(
        self, request: corrections_pb2.CorrectEventsRequest, context: Context
    ) -> corrections_pb2.CorrectEventsResponse:
        selection, changes, call = _selection(request), _action(request), _call(request)
        slug = request.tenant_id
        if request.dry_run:
            progress, effect = await correct_many.preview_corrections(self._context, slug, selection, changes)
            answer = _progress(call, progress)
            answer.effect.CopyFrom(messages.effect(effect))
            return answer
        return _progress(
            call, await correct_many.correct_events(self._context, slug, selection, changes, call)
        )

    async def ImportEvents(
        self, request: corrections_pb2.ImportEventsRequest, context: Context
    ) -> corrections_pb2.ImportEventsResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        size = request.ByteSize()
        report = await in_thread(_report, request) if size > capture_api.MUCH else _report(request)
        submission = await capture_api.to_submission(report, size, self._origin(request))
        if len(submission) == 0:
            return corrections_pb2.ImportEventsResponse()
        if request.dry_run:
            result, effect = await self._imports.preview(submission)
            answer = await _imported(report, result, counted=False)
            answer.ClearField("batch_id")
            answer.effect.CopyFrom(messages.effect(effect))
            return answer
        result = await self._imports.bring(submission, change)
        return await _imported(report, result)

    async def ListCorrections(
        self, request: corrections_pb2.ListCorrectionsRequest, context: Context
    ) -> corrections_pb2.ListCorrectionsResponse:
        limit = paging.size(request.page_size)
        before = paging.key(request.page_token, paging.instant, paging.identifier, paging.int4)
        found = await correct_one.list_corrections(
            self._context, request.tenant_id, _chosen(request), before, limit + 1
        )
        page = found[:limit]
        return corrections_pb2.ListCorrectionsResponse(
            corrections=await self._to_proto(request.tenant_id, page),
            next_page_token=paging.token(*page[-1].key) if len(found) > limit else "",
        )

    async def ListImports(
        self, request: corrections_pb2.ListImportsRequest, context: Context
    ) -> corrections_pb2.ListImportsResponse:
        limit = paging.size(request.page_size)
        before = paging.key(request.page_token, paging.instant, paging.identifier)
        found = await self._imports.page(request.tenant_id, before, limit + 1)
        page = found[:limit]
        return corrections_pb2.ListImportsResponse(
            imports=map(messages.imported, page),
            next_page_token=paging.token(*page[-1].key) if len(found) > limit else "",
        )

    async def _correct(
        self,
        request: corrections_pb2.AmendEventRequest | corrections_pb2.RetractEventRequest,
        changes: Changes | None,
    ) -> tuple[corrections_pb2.Correction | None, corrections_pb2.Effect | None]:
        call = _call(request)
        revision = request.revision if request.HasField("revision") else None
        target = Target(request.source, request.event_id, revision)
        slug = request.tenant_id
        if request.dry_run:
            made, effect = await correct_one.preview_correction(self._context, slug, target, changes, call)
            return await self._to_message(slug, made), messages.effect(effect)
        made = await correct_one.correct_event(self._context, slug, target, changes, call)
        return await self._to_message(slug, made), None

    async def _to_message(self, slug: str, made: Correction | None) -> corrections_pb2.Correction | None:
        return None if made is None else (await self._to_proto(slug, [made]))[0]

    async def _to_proto(self, slug: str, made: Sequence[Correction]) -> list[corrections_pb2.Correction]:
        tenant = await self._context.tenants.get(slug)
        types = await self._types.current({each.before.event_type for each in made})
        return [
            messages.correction(each, types.find(tenant.tenant_id, each.before.event_type)) for each in made
        ]

    def _origin(self, request: corrections_pb2.ImportEventsRequest) -> Origin:
        return Origin(
            capture_api.checked_source(request.source),
            self._clock.now_us(),
            None,
            trace.get_current_span().get_span_context(),
            BatchOrigin.IMPORTED,
            any_age=True,
            tenant=current_principal().tenant,
            import_id=fields.identifier("import_id", request.import_id),
        )


def _call(request: Correcting) -> Call:
    text = request.correction_id
    correction_id = fields.identifier("correction_id", text) if text else new_id()
    return Call(correction_id, ChangeRequest(request.requested_by, request.reason), _body(request))


def _body(request: Correcting) -> bytes:
    """The request, the same in each repetition of a call, also under a correction id that was made here."""
    asked: Correcting = type(request).FromString(request.SerializeToString())
    asked.ClearField("correction_id")
    return asked.DESCRIPTOR.name.encode() + b"\0" + asked.SerializeToString(deterministic=True)


def _selection(request: corrections_pb2.CorrectEventsRequest) -> Selection:
    match request.WhichOneof("events"):
        case "ids":
            return messages.named_events(request.ids)
        case "filter":
            return messages.events_filter(request.filter)
        case _:
            raise InvalidArgumentError("events", "ids or filter")


def _action(request: corrections_pb2.CorrectEventsRequest) -> Changes | None:
    match request.WhichOneof("action"):
        case "amend":
            return messages.changes(request.amend, "amend")
        case "retract":
            return None
        case _:
            raise InvalidArgumentError("action", "amend or retract")


def _progress(call: Call, progress: Progress) -> corrections_pb2.CorrectEventsResponse:
    return corrections_pb2.CorrectEventsResponse(
        correction_id=str(call.correction_id),
        complete=progress.complete,
        corrected=progress.corrected,
        unchanged=progress.unchanged,
        failed=progress.failed,
        failures=map(messages.failure, progress.failures),
    )


def _report(request: corrections_pb2.ImportEventsRequest) -> capture_pb2.ReportRequest:
    """The same events in the form that capture reads. All events of an import belong to one tenant."""
    report = capture_pb2.ReportRequest(tenant_id=request.tenant_id, source=request.source)
    named: set[str] = set()
    if request.HasField("columns"):
        report.columns.CopyFrom(request.columns)
        named = set(request.columns.tenants)
    elif request.HasField("rows"):
        report.rows.CopyFrom(request.rows)
        named = {event.tenant_id for event in request.rows.events} - {""}
    if named - {request.tenant_id}:
        raise InvalidArgumentError("tenant_id", "the same of all events of an import")
    read: capture_pb2.ReportRequest = wire.ReportRequest.FromString(report.SerializeToString())
    return read


async def _imported(
    report: capture_pb2.ReportRequest, result: Result, *, counted: bool = True
) -> corrections_pb2.ImportEventsResponse:
    answer = await capture_api.to_response(report, result, counted=counted)
    if len(answer.outcomes) > capture_api.MANY:
        return await in_thread(_renamed, answer)
    return _renamed(answer)


def _renamed(answer: capture_pb2.ReportResponse) -> corrections_pb2.ImportEventsResponse:
    return corrections_pb2.ImportEventsResponse(
        accepted=answer.accepted,
        duplicate=answer.duplicate,
        conflict=answer.conflict,
        rejected=answer.rejected,
        outcomes=answer.outcomes,
        batch_id=answer.batch_id,
    )


def _chosen(request: corrections_pb2.ListCorrectionsRequest) -> CorrectionFilter:
    ids = (request.event_id, request.correction_id, request.import_id)
    if sum(map(bool, ids)) > 1:
        raise InvalidArgumentError("event_id", "at most one of event_id, correction_id and import_id")
    event_id = event_ids.parse_one(request.source, request.event_id)[0] if request.event_id else None
    start, end = fields.time_range("time", request.time)
    return CorrectionFilter(
        uuid.UUID(bytes=event_id) if event_id else None,
        fields.identifier("correction_id", request.correction_id) if request.correction_id else None,
        fields.identifier("import_id", request.import_id) if request.import_id else None,
        start,
        end,
    )
