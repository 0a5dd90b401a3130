"""Options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.cases import CASES, Case, selected
from tests.bench.workload import Workload

# Older events are rejected, and events age during a run.
_MOST_DAYS = 34

# The services that the load needs; the publisher runs only if it is selected.
SERVICES = "identity,ingest,aggregate"


@dataclass(frozen=True, slots=True)
class Options:
    """
    seconds: duration of sending in each case
    events, concurrency: override those of each case
    rate: events a second of the freshness case; 0: half of the measured greatest load
    disk: show the sizes of tables, also outside the JSON
    postgres: settings of the server that override those of development
    warm_wal_mb: WAL to write before the first case, so that its files can be reused
    """

    cases: tuple[Case, ...]
    workload: Workload
    seconds: float
    events: int | None
    concurrency: int | None
    rate: float
    repeat: int
    fresh: bool
    capture_only: bool
    services: tuple[str, ...]
    trace: bool
    profile: str | None
    json: bool
    disk: bool
    postgres: Mapping[str, str]
    warm_wal_mb: int
    directory: Path | None

    def bound(self, case: Case) -> tuple[int, float]:
        """(events, seconds) of a case under these options."""
        events = case.events if self.events is None else min(case.events, self.events)
        return max(events, case.batch), self.seconds * case.stretch


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Parses the arguments; exits with a message if they are invalid."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        cases = selected(given.cases)
    except ValueError as error:
        parser.error(str(error))
    services = tuple(given.services.split(","))
    if given.capture_only:
        services = tuple(name for name in services if name in ("identity", "ingest"))
    if given.profile is not None and given.profile not in services:
        parser.error(f"--profile takes one of {', '.join(services)}")
    return Options(
        cases=tuple(cases),
        workload=Workload(
            given.tenants, given.subjects, given.mixed, given.spread_ms, given.random_ids, given.days
        ),
        seconds=given.seconds,
        events=given.events,
        concurrency=given.concurrency,
        rate=given.rate,
        repeat=given.repeat,
        fresh=given.fresh,
        capture_only=given.capture_only,
        services=services,
        trace=given.trace,
        profile=given.profile,
        json=given.json,
        disk=given.disk,
        postgres=dict(given.postgres),
        warm_wal_mb=given.warm_wal_mb,
        directory=given.directory,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures the data path on the real mesh; ends with 1 when a sum is wrong.",
        epilog=f"Cases: {_names(extra=False)}. Only when named: {_names(extra=True)}.",
    )
    _add_cases(parser)
    _add_load(parser)
    _add_mesh(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object as the last line")
    add("--disk", action="store_true", help="show bytes on disk an event, by table; the JSON has them anyway")
    add("--profile", metavar="SERVICE", help="run this service under cProfile and print where its time went")
    return parser


def _add_cases(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--cases",
        default="",
        metavar="PARTS",
        help="only cases whose name contains one of these, with commas",
    )
    add("--seconds", type=_positive(float), default=5.0, help="how long to send in each case (5)")
    add("--events", type=_positive(int), help="send at most so many events in each case")
    add("--concurrency", type=_positive(int), help="calls in flight, over each case's own")
    add(
        "--rate", type=float, default=0.0, help="events/s of the freshness case, instead of half the greatest"
    )
    add("--repeat", type=_positive(int), default=1, help="runs of each case; the median counts (1)")


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tenants", type=_positive(int), default=50, help="(50)")
    add("--subjects", type=_positive(int), default=100, help="of each tenant (100)")
    add("--mixed", action="store_true", help="events of all tenants in each batch, instead of one tenant's")
    add(
        "--spread-ms",
        type=_natural(86_400_000),
        default=0,
        metavar="MS",
        help="ids of a batch are made over this time, among others' (0)",
    )
    add("--random-ids", action="store_true", help="UUIDv4 ids, which have no order, instead of UUIDv7")
    add(
        "--days",
        type=_natural(_MOST_DAYS),
        default=0,
        help="events are dated at random over so many days, instead of when their ids were made (0)",
    )


def _add_mesh(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fresh", action="store_true", help="an empty mesh for each run of a case")
    add(
        "--postgres",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the Postgres server; may be given several times",
    )
    add(
        "--warm-wal-mb",
        type=_natural(1 << 20),
        default=512,
        metavar="MB",
        help="WAL written before the first case, whose files are reused (512)",
    )
    add("--services", default=SERVICES, help=f"what to start ({SERVICES})")
    add("--capture-only", action="store_true", help="without aggregate: how fast events are taken and stored")
    add("--trace", action="store_true", help="record every span, and count what arrives at a collector")
    add("--directory", type=Path, help="where data is kept while it runs; a temporary one if not given")


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A parser of numbers above 0."""

    def parse_number(text: str) -> float:
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return number

    parse_number.__name__ = kind.__name__
    return parse_number


def _natural(most: int) -> Callable[[str], int]:
    """A parser of whole numbers from 0 to `most`."""

    def parse_number(text: str) -> int:
        number = int(text)
        if not 0 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from 0 to {most}")
        return number

    parse_number.__name__ = "number"
    return parse_number


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def _names(*, extra: bool) -> str:
    return ", ".join(case.name for case in CASES if case.extra is extra)
