"""What time brings: periods end, drafts are finalised, test clocks arrive.

`step` does one thing in one transaction, so a double that is killed while a clock advances goes on from
where it was. The order is that of the instants, whatever the distance that a clock is moved.
"""

import asyncio

from . import clocks, events, invoices, subscriptions
from .core import Core
from .store import JsonObject

# An upper bound for sleeping until the next real instant, so that a clock moved by the system is noticed.
_LONGEST_SLEEP = 60.0


def step(core: Core) -> bool:
    """Do the next thing that is due on some clock; False if there is none."""
    with core.store.transaction():
        advancing = core.store.with_status(clocks.KIND, "advancing")
        if advancing:
            _advance(core, advancing[0])
            return True
        now = core.clock.now()
        due = core.store.due(None, now)
        if due is not None:
            _happen(core, due, now)
        return due is not None


def _advance(core: Core, clock: JsonObject) -> None:
    """One step of an advancing clock: to the next due instant, or to its target."""
    target = clock["status_details"]["advancing"]["target_frozen_time"]
    due = core.store.due(clock["id"], target)
    if due is None:
        clock |= {"frozen_time": target, "status": "ready", "status_details": {}}
        core.store.update(clock)
        events.emit(core, "test_helpers.test_clock.ready", clock, target)
        return
    instant = _instant(due)
    core.store.update(clock | {"frozen_time": max(clock["frozen_time"], instant)})
    _happen(core, due, instant)


def _instant(due: JsonObject) -> int:
    if due["object"] == "invoice":
        finalizes_at: int = due["automatically_finalizes_at"]
        return finalizes_at
    period_end: int = due["items"]["data"][0]["current_period_end"]
    return period_end


def _happen(core: Core, due: JsonObject, now: int) -> None:
    if due["object"] == "invoice":
        invoices.close(core, due, now)
    else:
        _end_period(core, due, now)


def _end_period(core: Core, subscription: JsonObject, now: int) -> None:
    invoice = invoices.draft(core, subscription, now)
    start = subscription["items"]["data"][0]["current_period_end"]
    end = subscriptions.period_end_after(subscription, start)
    for item in subscription["items"]["data"]:
        item |= {"current_period_start": start, "current_period_end": end}
    core.store.update(subscription | {"latest_invoice": invoice["id"]})


async def run(core: Core) -> None:
    """Step for ever: at once while there is something due, else asleep until there may be."""
    while True:
        core.wake_timeline.clear()
        if step(core):
            # One thing at a time, so that calls are answered in between.
            await asyncio.sleep(0)
            continue
        try:
            async with asyncio.timeout(_until_next(core)):
                await core.wake_timeline.wait()
        except TimeoutError:
            continue


def _until_next(core: Core) -> float:
    """Seconds to sleep: until the next instant on the double's own clock, if that moves at all."""
    due = core.store.next_due(None)
    if due is None or core.clock.frozen:
        return _LONGEST_SLEEP
    return min(max(due - core.clock.now_ms() / 1_000, 0.01), _LONGEST_SLEEP)
