"""Sends quarantined events through capture again, as if received again at their first receipt.

Capture stores an event first; its entry is marked afterwards, in another transaction. A replay interrupted in
between can be repeated: capture finds the event by its id, and returns DUPLICATE.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from google.protobuf.message import DecodeError
from meterline.clock import to_us
from meterline.crashpoints import crash_point
from meterline.errors import OverloadedError, TamperedError
from meterline.ids import new_id
from meterline.tenants import Tenant

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import QUARANTINE_REPLAYED, ChangeRequest
from meterline_ingest.capture.call import Origin, Result, Submission
from meterline_ingest.capture.group_commit import Committer
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.pipeline import Capture
from meterline_ingest.capture.store.rejected import PAYLOAD, TABLE
from meterline_ingest.event.batches import BatchOrigin
from meterline_ingest.event.outcomes import Kind, Problem, Stage
from meterline_ingest.keys.keyring import Keyring
from meterline_ingest.quarantine import store
from meterline_ingest.quarantine.rules import QuarantineFilter
from meterline_ingest.quarantine.service import QuarantineAccess
from meterline_ingest.quarantine.store import Quarantined

# Outcomes in one response.
MAX_OUTCOMES: Final = 1_000
# Bytes of payloads in memory at once.
PORTION_BYTES: Final = 4 << 20

UNREADABLE: Final = Problem(
    Kind.REJECTED, "PAYLOAD_UNREADABLE", "", "what is stored is not what was kept", stage=Stage.READ
)


@dataclass(slots=True)
class Replay:
    """The result of a replay. `outcomes` are the first of those that still wait."""

    replay_id: uuid.UUID = field(default_factory=new_id)
    counts: Counter[Kind] = field(default_factory=Counter)
    outcomes: list[tuple[Quarantined, Problem]] = field(default_factory=list)

    def add(self, entries: Sequence[Quarantined], problems: Mapping[uuid.UUID, Problem]) -> None:
        self.counts += _count(entries, problems)
        for entry in entries:
            problem = problems.get(entry.quarantine_id)
            room = len(self.outcomes) < MAX_OUTCOMES
            if room and problem is not None and problem.kind is not Kind.DUPLICATE:
                self.outcomes.append((entry, problem))


class QuarantineReplayer:
    """One for each process. Any number of replays may run at once, also of the same entries."""

    def __init__(self, access: QuarantineAccess, capture: Capture, committer: Committer) -> None:
        self._access = access
        self._capture = capture
        self._committer = committer

    async def replay(
        self, slug: str, chosen: QuarantineFilter, change: ChangeRequest, *, dry_run: bool
    ) -> Replay:
        """Raises NotFoundError; ShreddedError; OverloadedError, which keeps what was replayed so far."""
        tenant = await self._access.tenants.get(slug)
        replay = Replay()
        async for page in self._access.pages(tenant.tenant_id, chosen):
            for portion in _portions(page):
                left = portion
                while left:
                    taken, problems = await self._judge(tenant, left, dry_run=dry_run)
                    if not dry_run:
                        await self._settle(tenant, replay, taken, problems, change)
                    replay.add(taken, problems)
                    left = left[len(taken) :]
        return replay

    async def _judge(
        self, tenant: Tenant, entries: Sequence[Quarantined], *, dry_run: bool
    ) -> tuple[Sequence[Quarantined], dict[uuid.UUID, Problem]]:
        """Returns as many of the first entries as there was room for, and the problems among them; the
        others of these were accepted, or would be."""
        events = await self._events(tenant, entries)
        readable = [entry for entry in entries if entry.quarantine_id in events]
        calls = [list(call) for _, call in groupby(readable, _origin)]
        submissions = [
            _submission(tenant, call, [events[entry.quarantine_id] for entry in call]) for call in calls
        ]
        results = await (self._capture.preview(submissions) if dry_run else self._submit(submissions))
        if len(results) < len(calls):
            entries = entries[: entries.index(calls[len(results)][0])]
        problems = {each.quarantine_id: UNREADABLE for each in entries if each.quarantine_id not in events}
        for call, result in zip(calls, results, strict=False):
            problems |= {call[row].quarantine_id: problem for row, problem in result.problems.items()}
        return entries, problems

    async def _submit(self, submissions: Sequence[Submission]) -> list[Result]:
        """Queues the calls with all others. Returns the results of the first of them when there is no room
        for all. Raises OverloadedError when there is none at all."""
        waiting: list[asyncio.Future[Result]] = []
        for submission in submissions:
            try:
                self._committer.submit(submission)
            except OverloadedError:
                if not waiting:
                    raise
                break
            waiting.append(submission.result)
        return await asyncio.gather(*waiting)

    async def _events(self, tenant: Tenant, entries: Sequence[Quarantined]) -> dict[uuid.UUID, Any]:
        """The readable events, in the form of `wire`."""
        ids = [entry.quarantine_id for entry in entries]
        async with self._access.database.connection([tenant.tenant_id]) as connection:
            keyring = await self._access.vault.keyring(connection, tenant.tenant_id)
            sealed = await store.payloads(connection, tenant.tenant_id, ids)
        events = {key: _event(keyring, key, payload) for key, payload in sealed.items()}
        return {key: event for key, event in events.items() if event is not None}

    async def _settle(
        self,
        tenant: Tenant,
        replay: Replay,
        entries: Sequence[Quarantined],
        problems: Mapping[uuid.UUID, Problem],
        change: ChangeRequest,
    ) -> None:
        bad = {key: problem for key, problem in problems.items() if problem.kind is not Kind.DUPLICATE}
        done = [entry.quarantine_id for entry in entries if entry.quarantine_id not in bad]
        async with self._access.unit_of_work.begin([tenant.tenant_id]) as transaction:
            connection = transaction.connection
            await store.mark_replayed(connection, tenant.tenant_id, done, change.requested_by)
            await store.judge_again(connection, tenant.tenant_id, bad)
            counts = _count(entries, problems)
            await audit_store.record(
                connection,
                tenant.tenant_id,
                action=QUARANTINE_REPLAYED,
                subject=f"tenant {tenant.slug}",
                principal=change.requested_by,
                reason=change.reason,
                details={"replay_id": str(replay.replay_id)}
                | {kind.name.lower(): counts[kind] for kind in Kind},
            )
            crash_point("ingest.quarantine.before_settle")
            await transaction.commit()
        crash_point("ingest.quarantine.after_settle")


def _portions(page: Sequence[Quarantined]) -> Iterator[list[Quarantined]]:
    """Neighbours whose payloads fit in memory together; one that does not fit is alone."""
    portion: list[Quarantined] = []
    size = 0
    for entry in page:
        if portion and size + entry.size > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(entry)
        size += entry.size
    yield portion


def _count(entries: Sequence[Quarantined], problems: Mapping[uuid.UUID, Problem]) -> Counter[Kind]:
    counts = Counter(problem.kind for problem in problems.values())
    counts[Kind.ACCEPTED] = len(entries) - len(problems)
    return counts


def _event(keyring: Keyring, quarantine_id: uuid.UUID, sealed: bytes) -> Any | None:
    try:
        return wire.Event.FromString(keyring.unseal(TABLE, PAYLOAD, quarantine_id.bytes, sealed))
    except (TamperedError, DecodeError):
        return None


def _origin(entry: Quarantined) -> Origin:
    """The origin of the event's first call, so that events of one call are replayed together."""
    return Origin(
        entry.source,
        to_us(entry.received_at),
        None if entry.sent_at is None else to_us(entry.sent_at),
        entry.trace,
        BatchOrigin.REPLAYED,
    )


def _submission(tenant: Tenant, call: Sequence[Quarantined], events: list[Any]) -> Submission:
    return Submission(_origin(call[0]), tenant.slug, rows=events, bytes=sum(entry.size for entry in call))
