"""Named places at which a fault test ends the process, as `kill -9` would.

`METERLINE_CRASH_AT=<name>` fires at the first pass of that point, `<name>:<n>` at the n-th. Without the
variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Final

_TARGET: Final = os.environ.get("METERLINE_CRASH_AT", "")
_NAME, _, _COUNT = _TARGET.partition(":")
_passes: Counter[str] = Counter()

ALL: Final = (
    "ingest.report.before_commit",
    "ingest.report.after_commit",
    "timers.stop.before_capture",
    "timers.stop.after_capture",
    "ingest.quarantine.before_settle",
    "ingest.quarantine.after_settle",
    "ingest.correct.before_commit",
    "ingest.correct.after_commit",
    "outbox.relay.before_publish",
    "outbox.relay.after_publish",
    "outbox.relay.after_commit",
    "bus.consumer.before_handle",
    "bus.consumer.before_ack",
    "bus.consumer.after_ack",
    "bus.parts.before_apply",
    "bus.parts.before_commit",
    "bus.parts.after_commit",
    "unit_of_work.before_commit",
    "unit_of_work.after_commit",
    "publisher.send.before_call",
    "publisher.send.after_call",
    "publisher.send.after_commit",
)

if _NAME not in ("", *ALL):
    # A fault test that kills nothing would prove nothing.
    raise ValueError(f"METERLINE_CRASH_AT names no crash point: {_NAME}")


def crash_point(name: str) -> None:
    """Ends the process without any clean-up when `name` is the chosen point."""
    if not _TARGET or name != _NAME:
        return
    _passes[name] += 1
    if _passes[name] >= int(_COUNT or 1):
        os.kill(os.getpid(), signal.SIGKILL)
