"""Ingest whose replay gives events new ids: an interrupted and repeated replay counts them twice."""

from __future__ import annotations

from typing import Any

from meterline.ids import new_id
from meterline_ingest.main import main
from meterline_ingest.quarantine import replay as quarantine_replay

_event = quarantine_replay._event


def _renamed(*of: Any) -> Any:
    event = _event(*of)
    if event is not None:
        event.id = str(new_id())
    return event


if __name__ == "__main__":
    quarantine_replay._event = _renamed  # type: ignore[assignment]
    main()
