"""The oracle of the demo: checked by hand, against counts of other tools, and for independence."""

from __future__ import annotations

import ast
import gzip
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from meterline_dev.demo import flights, oracle

HEADER = "year,month,day,sched_dep_time,dep_time,carrier,flight,tailnum,origin,dest,air_time,distance\n"


def write(path: Path, *rows: str) -> Path:
    with gzip.open(path, "wt") as file:
        file.write(HEADER + "".join(f"{row}\n" for row in rows))
    return path


ROWS = (
    "2013,1,31,2359,2358,UA,1,N1,EWR,IAH,200,1400",
    "2013,1,31,2400,2400,UA,2,N1,EWR,IAH,100,700",
    "2013,2,1,600,600,UA,3,N1,LGA,ORD,110,730",
    "2013,2,1,700,705,UA,4,N2,LGA,ORD,111,730",
    "2013,2,1,800,,UA,5,,LGA,ORD,,730",
    "2013,2,1,900,905,UA,6,N2,LGA,ORD,,730",
    "2013,2,1,600,600,DL,1,N1,JFK,ATL,120,760",
)


@pytest.mark.req("C4", "T3.5")
def test_sums_equal_those_worked_out_by_hand(tmp_path: Path) -> None:
    found = oracle.compute(write(tmp_path / "f.csv.gz", *ROWS), timedelta(0), without_air_time=False)
    assert (found.rows, found.no_aircraft, found.no_air_time) == (7, 1, 1)
    assert dict(found.billable) == {"UA": 4, "DL": 1}
    expected = {
        # Midnight at the end of January is February.
        ("UA", 2013, 1, "", (1, 200, 1400, 1)),
        ("UA", 2013, 1, "EWR", (1, 200, 1400, 1)),
        ("UA", 2013, 2, "", (3, 321, 2160, 2)),
        ("UA", 2013, 2, "EWR", (1, 100, 700, 1)),
        ("UA", 2013, 2, "LGA", (2, 221, 1460, 2)),
        ("DL", 2013, 2, "", (1, 120, 760, 1)),
        ("DL", 2013, 2, "JFK", (1, 120, 760, 1)),
    }
    meters = ("departures", "air_minutes", "miles", "aircraft")
    assert found.sums == {
        (carrier, year, month, meter, origin): Decimal(value)
        for carrier, year, month, origin, values in expected
        for meter, value in zip(meters, values, strict=True)
    }


@pytest.mark.req("C4", "O2")
def test_flights_without_air_time_count_for_other_meters(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv.gz", *ROWS)
    before, after = (oracle.compute(path, timedelta(0), without_air_time=each) for each in (False, True))
    assert (after.rows, after.no_aircraft, after.no_air_time) == (7, 1, 1)
    assert dict(after.billable) == {"UA": 5, "DL": 1}
    grown = {cell: value - before.sums.get(cell, 0) for cell, value in after.sums.items()}
    assert {cell[3:]: value for cell, value in grown.items() if value} == {
        ("departures", ""): 1,
        ("departures", "LGA"): 1,
        ("miles", ""): 730,
        ("miles", "LGA"): 730,
    }


@pytest.mark.req("C4", "T2.2")
def test_moved_flights_fall_into_months_of_new_york(tmp_path: Path) -> None:
    """Moved from winter to summer time by a fixed duration, which shifts the local time by an hour."""
    row = "2013,1,31,2330,2330,UA,1,N1,EWR,IAH,200,1400"
    path = write(tmp_path / "f.csv.gz", row)

    def month(moved_by: timedelta) -> tuple[int, int]:
        ((_, year, number, _, _),) = {
            (*cell[:3], "", "") for cell in oracle.compute(path, moved_by, without_air_time=False).sums
        }
        return year, number

    assert month(timedelta(0)) == (2013, 1)
    assert month(timedelta(minutes=29)) == (2013, 1)
    assert month(timedelta(minutes=30)) == (2013, 2)
    # 31 January 23:30 and 150 days: 30 June 23:30 in winter time, which is 1 July 0:30 in summer time.
    assert month(timedelta(days=150)) == (2013, 7)


@pytest.mark.req("C4", "T3.5")
def test_sums_of_the_flight_data() -> None:
    """Expected numbers were computed from the file with a spreadsheet."""
    found = oracle.compute(flights.DATA, timedelta(0), without_air_time=False)
    assert (found.rows, found.no_aircraft, found.no_air_time) == (80_789, 841, 2_037)
    assert sum(found.billable.values()) == 77_911

    def values(carrier: str, month: int, origin: str = "") -> list[int]:
        meters = ("departures", "air_minutes", "miles", "aircraft")
        return [int(found.sums[carrier, 2013, month, meter, origin]) for meter in meters]

    assert values("HA", 1) == [31, 19_680, 154_473, 9]
    assert values("HA", 1, "JFK") == [31, 19_680, 154_473, 9]
    assert values("UA", 3) == [4_909, 1_005_343, 7_142_267, 561]
    assert values("OO", 1) == [1, 132, 733, 1]
    assert ("OO", 2013, 2, "departures", "") not in found.sums


@pytest.mark.req("C4")
def test_oracle_shares_no_code_with_the_services() -> None:
    path = Path(oracle.__file__)
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add("" if node.level else (node.module or "").partition(".")[0])
    assert modules <= sys.stdlib_module_names
