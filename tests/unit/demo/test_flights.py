"""Reading the flight data: local times of New York, rows with missing values, and stable ids."""

from __future__ import annotations

import gzip
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_dev.demo import flights
from meterline_dev.demo.flights import departure

NEW_YORK = ZoneInfo("America/New_York")
HEADER = "year,month,day,sched_dep_time,dep_time,carrier,flight,tailnum,origin,dest,air_time,distance\n"


def write(path: Path, *rows: str) -> Path:
    with gzip.open(path, "wt") as file:
        file.write(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.req("X4")
@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ((2013, 1, 1), "515", "2013-01-01T10:15"),
        ((2013, 1, 1), "5", "2013-01-01T05:05"),
        ((2013, 1, 1), "0", "2013-01-01T05:00"),
        ((2013, 3, 9), "2359", "2013-03-10T04:59"),
        # The day on which clocks went from 2 to 3: five hours behind, then four.
        ((2013, 3, 10), "159", "2013-03-10T06:59"),
        ((2013, 3, 10), "300", "2013-03-10T07:00"),
        ((2013, 3, 10), "2359", "2013-03-11T03:59"),
        # 2:30 did not exist: it means half an hour after 2:00 in winter time.
        ((2013, 3, 10), "230", "2013-03-10T07:30"),
        # 1:30 came twice in November: it means the first one.
        ((2013, 11, 3), "130", "2013-11-03T05:30"),
        # Midnight at the end of a day, of a month, of a year, and of a day with 23 hours.
        ((2013, 1, 4), "2400", "2013-01-05T05:00"),
        ((2013, 2, 28), "2400", "2013-03-01T05:00"),
        ((2013, 12, 31), "2400", "2014-01-01T05:00"),
        ((2013, 3, 10), "2400", "2013-03-11T04:00"),
    ],
)
def test_departure_is_converted_to_an_instant(day: tuple[int, int, int], clock: str, expected: str) -> None:
    assert departure(*day, clock) == utc(expected)


@pytest.mark.req("X4")
@pytest.mark.parametrize("clock", ["2401", "2500", "1260", "-1", "", "noon", "12:30"])
def test_invalid_time_of_day_is_refused(clock: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text may be Python's own
        departure(2013, 1, 1, clock)


@pytest.mark.req("X4")
@given(st.datetimes(datetime(2013, 1, 1), datetime(2013, 12, 31, 23, 59)))  # noqa: DTZ001
def test_departure_round_trips_to_local_time(wall: datetime) -> None:
    found = departure(wall.year, wall.month, wall.day, f"{wall:%H%M}")
    shown = found.astimezone(NEW_YORK).replace(tzinfo=None)
    minute = wall.replace(second=0, microsecond=0)
    skipped = datetime(2013, 3, 10, 2) <= minute < datetime(2013, 3, 10, 3)  # noqa: DTZ001
    assert shown == (minute + timedelta(hours=1) if skipped else minute)


@pytest.mark.req("X4", "T1.1")
def test_rows_with_missing_values_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.csv.gz",
        "2013,1,1,515,517,UA,1545,N14228,EWR,IAH,227,1400",
        "2013,1,1,1545,,AA,133,,JFK,LAX,,2475",
        "2013,1,2,1630,1637,EV,4308,N18120,EWR,RDU,,416",
    )
    whole, no_aircraft, diverted = flights.read(path)
    assert (whole.carrier, whole.tail_number, whole.origin, whole.destination) == (
        "UA",
        "N14228",
        "EWR",
        "IAH",
    )
    assert (whole.air_minutes, whole.miles, whole.departed) == (227, 1400, utc("2013-01-01T10:15"))
    assert (no_aircraft.tail_number, no_aircraft.air_minutes) == ("", None)
    assert no_aircraft.departed == utc("2013-01-01T20:45")
    assert (diverted.tail_number, diverted.air_minutes) == ("N18120", None)
    assert [one.is_billable for one in (whole, no_aircraft, diverted)] == [True, False, False]


@pytest.mark.req("X4")
@pytest.mark.parametrize(
    "row", ["2013,2,30,515,517,UA,1,N1,EWR,IAH,227,1400", "2013,1,1,515,517,UA,1,N1,EWR,IAH,227,far"]
)
def test_row_that_is_no_flight_is_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text may be Python's own
        list(flights.read(write(tmp_path / "f.csv.gz", row)))


@pytest.mark.req("T1.1", "T1.2")
def test_flight_id_is_stable(tmp_path: Path) -> None:
    rows = [
        "2013,1,1,515,517,UA,1545,N14228,EWR,IAH,227,1400",
        "2013,1,1,515,517,UA,1545,N14228,LGA,IAH,227,1400",
        "2013,1,2,515,517,UA,1545,N14228,EWR,IAH,227,1400",
    ]
    forth = list(flights.read(write(tmp_path / "a.csv.gz", *rows)))
    back = list(flights.read(write(tmp_path / "b.csv.gz", *reversed(rows))))
    assert forth == back[::-1]
    assert len({flight.event_id for flight in forth}) == 3
    # Must never change: stored data was captured under these ids.
    assert forth[0].event_id == uuid.UUID("5db4d85a-6687-5401-b2f9-8f0bce54e07f")


@pytest.mark.req("X4")
def test_data_matches_its_readme() -> None:
    found = list(flights.read())
    assert len(found) == 80_789
    assert len({flight.event_id for flight in found}) == 80_789
    assert len({flight.carrier for flight in found}) == 16
    assert sum(not flight.tail_number for flight in found) == 841
    assert sum(flight.air_minutes is None for flight in found) == 2_878
    assert sum(not flight.is_billable for flight in found) == 2_878
    readme = (flights.DATA.parent / "README.md").read_text()
    assert "CC0" in readme
    assert flights.DATA.name in readme


@pytest.mark.req("X4")
@pytest.mark.parametrize(
    ("count", "rows"), [(1, [0]), (3, [0, 4, 8]), (10, list(range(10))), (99, list(range(10)))]
)
def test_sample_spans_the_whole_file(tmp_path: Path, count: int, rows: list[int]) -> None:
    lines = [f"2013,1,1,{600 + number},,UA,{number},N1,EWR,IAH,227,1400" for number in range(10)]
    source = write(tmp_path / "all.csv.gz", *lines)
    flights.sample(source, count, tmp_path / "some.csv.gz")
    found = [flight.departed.minute for flight in flights.read(tmp_path / "some.csv.gz")]
    assert found == rows


@pytest.mark.req("X4", "T1.5")
@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.lists(st.datetimes(datetime(2013, 1, 1), datetime(2013, 3, 31)), min_size=1, max_size=9),  # noqa: DTZ001
)
def test_last_flight_departs_now(now: datetime, walls: list[datetime]) -> None:
    minutes = [wall.replace(second=0, microsecond=0, tzinfo=UTC) for wall in walls]
    found = [
        flights.Flight(uuid.UUID(int=0), "UA", "N1", "EWR", "IAH", 1, 1, departed) for departed in minutes
    ]
    latest = max(minutes) + flights.shift_to(now, found)
    assert timedelta(minutes=1) <= now - latest < timedelta(minutes=2)
