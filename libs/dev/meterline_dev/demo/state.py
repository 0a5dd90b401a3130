"""What a demo must remember to be repeatable on the same data: by how much time was moved, and who is who
at Stripe."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from meterline_dev.demo.errors import DemoError


@dataclass(slots=True)
class BilledAt:
    """The objects that represent a tenant at Stripe."""

    clock: str
    customer: str
    subscription: str


@dataclass(slots=True)
class State:
    """run: names the demo's first run; keys of calls that create something at Stripe derive from it
    first: the earliest departure, moved, in unix seconds
    moved_by: seconds from 2013 to now, as they were in the first run
    limit: how many rows the demo runs on; 0 is all
    account: which Stripe account (or double) the ids belong to
    meters: Stripe's meters by event name
    tenants: by tenant; empty until all are there
    """

    run: str
    first: int
    moved_by: int
    limit: int
    account: str
    meters: dict[str, str] = field(default_factory=dict)
    tenants: dict[str, BilledAt] = field(default_factory=dict)

    @classmethod
    def begin(cls, first: datetime, moved_by: timedelta, limit: int, account: str) -> Self:
        """The state of a demo that has not run yet; `first` is the earliest departure before the move."""
        seconds = int(moved_by.total_seconds())
        return cls(uuid.uuid4().hex, int(first.timestamp()) + seconds, seconds, limit, account)

    @property
    def shift(self) -> timedelta:
        return timedelta(seconds=self.moved_by)

    def check(self, limit: int, account: str) -> None:
        """DemoError when this data cannot be continued with what is asked for now."""
        if self.limit != limit:
            raise DemoError(f"this directory holds a demo on {_rows(self.limit)}, not on {_rows(limit)}")
        if self.account != account:
            raise DemoError("this directory holds a demo that was billed by another Stripe account")


def load(path: Path) -> State | None:
    """The state that an earlier run kept; None when there was none."""
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    tenants = {name: BilledAt(**value) for name, value in body.pop("tenants").items()}
    return State(**body, tenants=tenants)


def save(path: Path, state: State) -> None:
    """Replaces the file in one step, so that a killed demo leaves the old state or the new one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state), indent=1))
    os.replace(fresh, path)


def _rows(limit: int) -> str:
    return f"a sample of {limit:,} flights" if limit else "all flights"
