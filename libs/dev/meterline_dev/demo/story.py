"""The demo from beginning to end, on a mesh that runs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

from meterline_dev.demo import explained, flights, oracle, quarantine_fix, setup, state, sums, verdict
from meterline_dev.demo.calls import Services, each
from meterline_dev.demo.capture import Captured, capture
from meterline_dev.demo.carriers import CARRIERS
from meterline_dev.demo.closing import Closing, Invoices
from meterline_dev.demo.explained import Explained
from meterline_dev.demo.flights import Flight
from meterline_dev.demo.meters import METERS
from meterline_dev.demo.months import Month, month_of, months
from meterline_dev.demo.quarantine_fix import QuarantineFix
from meterline_dev.demo.report import Report
from meterline_dev.demo.state import State
from meterline_dev.demo.stripe_account import AT_ONCE, StripeAccount
from meterline_dev.demo.verdict import Stages, Verdict
from meterline_dev.mesh import Mesh

# The data is 90 days long, and a second run some weeks later has to be accepted too, as duplicates.
_EVENT_AGE_DAYS: Final = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo found out."""

    captured: Captured
    fix: QuarantineFix
    verdict: Verdict
    invoices: Invoices
    explained: Explained | None

    def summary(self) -> dict[str, Any]:
        """The outcome as it is printed for machines."""
        found, line = self.captured, self.explained
        return {
            "events": {
                "read": found.read,
                "accepted": found.accepted,
                "duplicate": found.duplicate,
                "rejected": found.rejected,
                "replayed": self.fix.replayed,
            },
            "lost": self.verdict.lost,
            "doubled": self.verdict.doubled,
            "sums_agree": self.verdict.sums_agree,
            "invoices": len(self.invoices),
            "explained": {
                "line": line.line.line_id if line else "",
                "events": [event.event_id for event in line.events] if line else [],
                "trace_ids": line.trace_ids if line else [],
            },
        }


class Demo:
    """One demo in one directory, which may hold that of an earlier run. `limit` 0 is all flights.

    Raises DemoError, on making it already when the directory holds another demo.
    """

    def __init__(self, directory: Path, limit: int, report: Report, *, uses_double: bool) -> None:
        self._directory = directory
        self._limit = limit
        self._report = report
        self._account = "double" if uses_double else "stripe"
        # Stripe's summaries follow what was sent after a while, those of the double at once.
        self._patience = 2.0 if uses_double else 180.0
        self._path = flights.DATA
        self._flights: list[Flight] = []
        self._known = state.load(self._state_file)
        if self._known is not None:
            self._known.check(limit, self._account)

    @property
    def _state_file(self) -> Path:
        return self._directory / "demo.json"

    def environment(self) -> Mapping[str, Mapping[str, str]]:
        """What differs from production's defaults: events are taken at the age that the data has."""
        days = _EVENT_AGE_DAYS
        if self._known is not None:
            age = datetime.now(UTC) - datetime.fromtimestamp(self._known.first, UTC)
            days = max(days, math.ceil(age / timedelta(days=1)) + 1)
        return {"ingest": {"METERLINE_MAX_EVENT_AGE_DAYS": str(days)}}

    async def read(self) -> None:
        """Reads the flights; needs no mesh, so it can be done while one starts."""
        self._path, self._flights = await asyncio.to_thread(self._read)

    async def run(self, mesh: Mesh) -> Outcome:
        """The whole story after `read`; what it shows goes to the report."""
        path, found = self._path, self._flights
        kept = self._known or self._begin(found)
        first, last = (one.departed + kept.shift for one in (_earliest(found), _latest(found)))
        period = months(first, last)
        async with (
            Services(mesh.channel) as services,
            StripeAccount(mesh.stripe_key, mesh.stripe_url) as account,
        ):
            with self._report.step(f"{len(CARRIERS)} tenants, {len(METERS)} meters, four plans"):
                await setup.bill_at_stripe(account, kept, period[0])
                state.save(self._state_file, kept)
                await setup.register(services, kept, period[0])
            with self._report.counting("Capturing real flights", len(found)) as counter:
                captured = await capture(mesh.address("ingest"), mesh.token(), found, kept.shift, counter.at)
            self._report.captured(captured)
            with self._report.step("Every accepted event is aggregated"):
                await sums.conservation(services)
            with self._report.step(
                "Quarantine: a rule is corrected, and the events that it rejected are replayed"
            ):
                fix = await quarantine_fix.correct_and_replay(services, period)
                compute = partial(oracle.compute, path, kept.shift)
                fix.due = (await asyncio.to_thread(compute, without_air_time=False)).sums
                expected = await asyncio.to_thread(compute, without_air_time=True)
                conserved = await sums.conservation(services)
            self._report.quarantine_fix(fix)
            invoices = await self._close(services, account, kept, period)
            return await self._prove(
                services, account, kept, period, (expected, captured, fix, conserved, invoices)
            )

    def _read(self) -> tuple[Path, list[Flight]]:
        path = flights.DATA
        if self._limit:
            path = self._directory / f"flights-sample-{self._limit}.csv.gz"
            flights.sample(flights.DATA, self._limit, path)
        return path, list(flights.read(path))

    def _begin(self, found: Sequence[Flight]) -> State:
        shift = flights.shift_to(datetime.now(UTC), found)
        fresh = State.begin(_earliest(found).departed, shift, self._limit, self._account)
        # Before anything is made with it: a demo that is interrupted must go on with the same one.
        state.save(self._state_file, fresh)
        return fresh

    async def _close(
        self, services: Services, account: StripeAccount, kept: State, period: Sequence[Month]
    ) -> Invoices:
        now = datetime.now(UTC)
        with self._report.counting("Closing months", len(CARRIERS) * len(period)) as counter:
            closing = Closing(services, account, kept, counter.more)
            invoices = await closing.run(period, now)
        self._report.invoices(invoices, period, month_of(now))
        return invoices

    async def _prove(
        self,
        services: Services,
        account: StripeAccount,
        kept: State,
        period: Sequence[Month],
        found: tuple[oracle.Expected, Captured, QuarantineFix, sums.Conservation, Invoices],
    ) -> Outcome:
        expected, captured, fix, conserved, invoices = found
        with self._report.step("Usage, invoice lines and Stripe held against the file"):
            line = explained.choose(invoices)
            taken_apart = await explained.explain(services, *line) if line else None
            stages = Stages(
                file=expected.sums,
                usage=await sums.usage(services, period),
                lines=sums.rated(invoices.values()),
                stripe=await sums.at_stripe(account, kept, period, expected.sums, self._patience),
            )
            totals = await _stripe_totals(account, invoices)
        outcome = verdict.judge(expected, captured, fix, conserved, stages, invoices, totals, taken_apart)
        if taken_apart is not None:
            self._report.explained(taken_apart)
        self._report.verdict(outcome, stages)
        return Outcome(captured, fix, outcome, invoices, taken_apart)


async def _stripe_totals(account: StripeAccount, invoices: Invoices) -> Mapping[str, tuple[str, Decimal]]:
    ids = [invoice.external_invoice_id for invoice in invoices.values() if invoice.external_invoice_id]
    return dict(zip(ids, await each(ids, account.invoice_total, AT_ONCE), strict=True))


def _earliest(found: Sequence[Flight]) -> Flight:
    return min(found, key=lambda flight: flight.departed)


def _latest(found: Sequence[Flight]) -> Flight:
    return max(found, key=lambda flight: flight.departed)
