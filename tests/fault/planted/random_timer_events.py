"""Ingest whose timers give their event a new id at each attempt: a retried stop counts twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meterline.ids import new_id
from meterline_ingest.main import main
from meterline_ingest.timers.rules import Timer
from meterline_ingest.timers.service import Timers

_submission = Timers._submission


def _renamed(self: Timers, tenant: Any, timer: Timer, definition: Any) -> Any:
    return _submission(self, tenant, replace(timer, event_id=new_id()), definition)


if __name__ == "__main__":
    Timers._submission = _renamed  # type: ignore[method-assign]
    main()
