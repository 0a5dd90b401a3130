"""Asynchronous errors of meter events: `v1.billing.meter.error_report_triggered`, one event a meter.

As with Stripe, a report counts all errors but names only a sample of them, and names them by the
Idempotency-Key of the request, not by the identifier of the event.
"""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from . import events, meters, usage
from .core import Core
from .store import JsonObject

TYPE = "v1.billing.meter.error_report_triggered"
SAMPLES = 10
_BATCH = 1_000
_MESSAGES = {"meter_event_customer_not_found": "No customer with this id exists."}


async def run(core: Core) -> None:
    """Wait for rejected events, gather for a moment, report."""
    while True:
        await core.wake_reports.wait()
        core.wake_reports.clear()
        await asyncio.sleep(core.settings.error_report_delay)
        if report(core):
            # There may be more than one batch.
            core.wake_reports.set()


def report(core: Core) -> bool:
    """Report one batch of rejected events; False if there was none."""
    with core.store.transaction():
        rows = usage.unreported(core, _BATCH)
        for meter, found in groupby(sorted(rows, key=lambda row: row[1]), key=lambda row: row[1]):
            _emit(core, meter, list(found))
        if rows:
            usage.mark_reported(core, rows[-1][0])
    return bool(rows)


def _emit(core: Core, meter: str, rows: Sequence[tuple[Any, ...]]) -> None:
    now = core.clock.now()
    data: JsonObject = {
        "developer_message_summary": f"{len(rows)} meter events could not be processed.",
        "reason": {"error_count": len(rows), "error_types": _types(rows)},
        "validation_start": events.timestamp(min(row[5] for row in rows)),
        "validation_end": events.timestamp(now),
    }
    related = {"id": meter, "type": meters.KIND, "url": f"{meters.URL}/{meter}"}
    events.emit_thin(core, TYPE, related, data, now)


def _types(rows: Sequence[tuple[Any, ...]]) -> list[JsonObject]:
    found = []
    for code, errors in groupby(sorted(rows, key=lambda row: str(row[2])), key=lambda row: row[2]):
        of_code = list(errors)
        message = _MESSAGES.get(code, code)
        samples = [
            {"error_message": f"{message} ({row[3]})", "request": {"identifier": row[4] or ""}}
            for row in of_code[:SAMPLES]
        ]
        found.append({"code": code, "error_count": len(of_code), "sample_errors": samples})
    return found
