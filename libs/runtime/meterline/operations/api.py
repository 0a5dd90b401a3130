"""DeadLettersService: the same in every service that has consumers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from grpc import aio
from meterline_protos.operations.v1 import dead_letters_pb2, dead_letters_pb2_grpc

from meterline.consuming.consumer import Consumer
from meterline.consuming.dead_letters import DeadLetter, Filter, State
from meterline.consuming.redrive import Redriven
from meterline.db.pool import Database
from meterline.errors import InvalidArgumentError
from meterline.operations.service import DeadLetters, Order, Result
from meterline.rpc import fields, paging
from meterline.rpc.server import Servicer

DEAD_LETTERS_SERVICE: Final = dead_letters_pb2.DESCRIPTOR.services_by_name["DeadLettersService"].full_name

Context = aio.ServicerContext[Any, Any]

MAX_IDS: Final = 1_000
MAX_REDRIVEN: Final = 1_000
# So many of the largest messages there are fit into one answer.
MAX_PAYLOADS: Final = 5

_STATES: Final = {
    dead_letters_pb2.DEAD_LETTER_STATE_OPEN: State.OPEN,
    dead_letters_pb2.DEAD_LETTER_STATE_REDRIVEN: State.REDRIVEN,
}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}
_OUTCOMES: Final = {
    Redriven.APPLIED: dead_letters_pb2.REDRIVE_OUTCOME_APPLIED,
    Redriven.FAILED: dead_letters_pb2.REDRIVE_OUTCOME_FAILED,
    Redriven.SKIPPED: dead_letters_pb2.REDRIVE_OUTCOME_SKIPPED,
}


def dead_letters_service(database: Database, consumers: Sequence[Consumer]) -> Servicer:
    """What a service's server mounts for all of its consumers."""
    return (
        DEAD_LETTERS_SERVICE,
        dead_letters_pb2_grpc.add_DeadLettersServiceServicer_to_server,
        DeadLettersServicer(DeadLetters(database, consumers)),
    )


class DeadLettersServicer(dead_letters_pb2_grpc.DeadLettersServiceServicer):
    """See protos/meterline/operations/v1/dead_letters.proto."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    async def ListDeadLetters(
        self, request: dead_letters_pb2.ListDeadLettersRequest, context: Context
    ) -> dead_letters_pb2.ListDeadLettersResponse:
        if request.include_payload:
            limit = paging.size(request.page_size, default=MAX_PAYLOADS, most=MAX_PAYLOADS)
        else:
            limit = paging.size(request.page_size)
        found = await self._dead_letters.page(
            _to_filter(request.filter),
            states=_to_states(request.states),
            after=paging.key(request.page_token, paging.instant, paging.identifier, paging.text),
            limit=limit + 1,  # one more than asked for shows whether there is a next page
            with_payload=request.include_payload,
        )
        page = found[:limit]
        return dead_letters_pb2.ListDeadLettersResponse(
            dead_letters=[_to_message(letter) for letter in page],
            next_page_token=paging.token(*page[-1].place) if len(found) > limit else "",
        )

    async def RedriveDeadLetters(
        self, request: dead_letters_pb2.RedriveDeadLettersRequest, context: Context
    ) -> dead_letters_pb2.RedriveDeadLettersResponse:
        ways = (bool(request.message_ids), request.HasField("filter"), request.all)
        if sum(ways) != 1:
            raise InvalidArgumentError("message_ids", "exactly one of message_ids, filter and all")
        order = Order(request.requested_by, request.reason, request.dry_run)
        if request.message_ids:
            ids = fields.identifiers("message_ids", request.message_ids, most=MAX_IDS)
            results, left = await self._dead_letters.redrive_ids(ids, order)
        else:
            limit = paging.size(request.limit, default=MAX_REDRIVEN, most=MAX_REDRIVEN)
            results, left = await self._dead_letters.redrive(_to_filter(request.filter), order, limit=limit)
        return dead_letters_pb2.RedriveDeadLettersResponse(
            results=[_to_result(result) for result in results], left=left
        )


def _to_filter(given: dead_letters_pb2.DeadLetterFilter) -> Filter:
    since, until = fields.time_range("filter.received", given.received)
    everything = Filter()
    return Filter(given.consumer, given.error_prefix, since or everything.since, until or everything.until)


def _to_states(numbers: Iterable[dead_letters_pb2.DeadLetterState.ValueType]) -> list[State]:
    try:
        return [_STATES[number] for number in numbers] or [State.OPEN]
    except KeyError:
        raise InvalidArgumentError("states", "OPEN, REDRIVEN or both") from None


def _to_message(letter: DeadLetter) -> dead_letters_pb2.DeadLetter:
    message = dead_letters_pb2.DeadLetter(
        message_id=str(letter.message_id),
        consumer=letter.consumer,
        subject=letter.subject,
        headers=letter.headers,
        error=letter.error,
        state=_STATE_NUMBERS[letter.state],
        attempts=letter.attempts,
        redriven_by=letter.redriven_by,
        reason=letter.reason,
        payload_size=letter.size,
        payload=letter.payload or b"",
    )
    message.received_at.FromDatetime(letter.received_at)
    message.failed_at.FromDatetime(letter.failed_at)
    if letter.redriven_at is not None:
        message.redriven_at.FromDatetime(letter.redriven_at)
    return message


def _to_result(result: Result) -> dead_letters_pb2.RedriveResult:
    return dead_letters_pb2.RedriveResult(
        message_id=str(result.message_id),
        consumer=result.consumer,
        outcome=_OUTCOMES[result.outcome],
        error=result.error,
    )
