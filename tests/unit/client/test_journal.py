"""The journal keeps each event from the moment it is recorded, whatever ends the process, and no longer than
it needs to."""

import errno
import os
import shutil
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.events import Row
from meterline_client.ledger import Ledger
from meterline_client.recovery import recover_journals
from meterline_client.spool import Journal, Spool, journal
from meterline_client.spool.slots import Claim, journal_paths
from meterline_client.stats import Counters

from tests.support.client import Core, ManualClock, id_text, ids_of, rows

ROOMY = 64 << 20


def new_journal(directory: Path, max_bytes: int = ROOMY, clock: ManualClock | None = None) -> Journal:
    claim = Claim(directory)
    return Journal(claim, "test/1", max_bytes=max_bytes, retry=5.0, clock=clock or ManualClock())


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.journal"))


def kept(directory: Path) -> list[Row]:
    """What the next process would find if this one were killed now."""
    return [row for path in files(directory) for row in journal.read(path).rows]


def without_trace(row: Row) -> Row:
    return (*row[:7], None, row[8])


@pytest.mark.req("T1.3", "T7.3")
@settings(deadline=None, max_examples=50)
@given(
    chunks=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    released=st.integers(0, 7),
    file_bytes=st.sampled_from([200, 2_000, 1 << 20]),
)
def test_what_was_recorded_and_not_released_is_found(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[int], released: int, file_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    recorded: list[list[Row]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_FILE_BYTES", file_bytes)
        one = new_journal(directory)
        for sequence, count in enumerate(chunks, start=1):
            recorded.append(rows(count, quantities={"miles": 7, "hours": Decimal("0.25")}))
            assert all(one.append(row) for row in recorded[-1])
            if sequence < len(chunks):  # the last one is open still
                one.mark(sequence)
        for file in one.release(released):
            file.delete()
    # The last is not marked, so it cannot have been released.
    rest = recorded[min(released, len(chunks) - 1) :]

    assert kept(directory) == [row for chunk in rest for row in chunk]
    assert {journal.read(path).source for path in files(directory)} == {"test/1"}


@pytest.mark.req("T1.3")
def test_a_journal_whose_events_are_all_done_leaves_no_file(tmp_path: Path) -> None:
    one = new_journal(tmp_path)
    for row in rows(20):
        one.append(row)
    one.mark(1)
    assert len(files(tmp_path)) == 1
    assert one.release(1) == []
    assert kept(tmp_path) == []
    one.close()

    assert files(tmp_path) == []
    assert not one.append(rows(1)[0])


@pytest.mark.req("T1.3")
@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, 400), torn=st.binary(max_size=8))
def test_an_event_that_was_half_written_costs_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int, torn: bytes
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    one = new_journal(directory)
    given_rows = rows(5)
    ends = []
    for row in given_rows:
        one.append(row)
        ends.append(one._position)
    [path] = files(directory)
    content = bytearray(path.read_bytes())
    # As if the process had died in the middle of a copy: a part of the bytes, or others, and zeros.
    at = max(ends[0], ends[-1] - cut)
    content[at:] = torn + bytes(len(content) - at - len(torn))
    path.write_bytes(content)

    found = journal.read(path).rows
    whole = sum(end <= at for end in ends)
    assert found[:whole] == given_rows[:whole]
    assert all(row in given_rows for row in found)


@pytest.mark.req("T1.3", "T7.1")
def test_a_damaged_journal_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = new_journal(tmp_path)
    given_rows = rows(3)
    for row in given_rows:
        one.append(row)
    [path] = files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"s1", b"sX", 1))
    counters = Counters()
    recover_journals(path.parent, None, Ledger(counters, None, ManualClock()))

    assert "damaged after 1 events" in caplog.text
    assert counters.spool_errors == 1
    assert files(tmp_path) == []


class Kind(StrEnum):
    CALLED = "api.called"


@pytest.mark.req("T1.3")
def test_texts_of_other_classes_are_kept_as_texts(tmp_path: Path) -> None:
    one = new_journal(tmp_path)
    [row] = rows(1, dimensions={Kind.CALLED: Kind.CALLED})
    traced = (*row[:2], Kind.CALLED, *row[3:7], object(), row[8])

    assert one.append(traced)
    assert kept(tmp_path) == [without_trace(traced)]


@pytest.mark.req("T1.3")
def test_an_event_longer_than_a_file_has_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_FILE_BYTES", 200)
    one = new_journal(tmp_path)
    long = rows(2, properties={f"p{n}": "x" * 4_000 for n in range(30)})

    assert [one.append(row) for row in long] == [True, True]
    assert kept(tmp_path) == long


@pytest.mark.req("T7.1")
def test_a_disk_without_space_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    clock = ManualClock()
    one = new_journal(tmp_path, clock=clock)
    given_rows = rows(4)
    monkeypatch.setattr(journal, "_reserve", full)
    assert [one.append(row) for row in given_rows[:2]] == [False, False]
    error = one.take_error()
    assert error is not None
    assert error.errno == errno.ENOSPC
    assert one.take_error() is None
    assert files(tmp_path) == [], "nothing piles up on a full disk"
    monkeypatch.undo()

    assert not one.append(given_rows[2]), "the disk is left alone for a while"
    clock.advance(5)
    assert one.append(given_rows[3])
    assert kept(tmp_path) == [given_rows[3]]


@pytest.mark.req("T7.1")
def test_it_is_bounded_and_has_space_again_once_events_are_done(tmp_path: Path) -> None:
    clock = ManualClock()
    one = new_journal(tmp_path, max_bytes=2 << 20, clock=clock)
    sequence = 0
    while all(one.append(row) for row in rows(1_000)):
        sequence += 1
        one.mark(sequence)
    assert sum(path.stat().st_size for path in files(tmp_path)) == 2 << 20
    error = one.take_error()
    assert error is not None
    assert "of 2097152 bytes are in use" in str(error)

    for file in one.release(sequence):
        file.delete()
    clock.advance(5)
    assert one.append(rows(1)[0])


@pytest.mark.req("T1.3")
def test_a_signal_handler_that_records_in_the_middle_of_recording_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = new_journal(tmp_path)
    outer, inner, late = rows(3)
    pending = [inner]
    real = journal._crc32

    def interrupted(body: bytes) -> int:
        if pending:
            one.append(pending.pop())
        return real(body)

    monkeypatch.setattr(journal, "_crc32", interrupted)
    assert one.append(outer)
    assert one.append(late)

    assert kept(tmp_path) == [inner, outer, late]


@pytest.mark.req("T1.3", "T7.3")
def test_the_next_process_sends_what_a_killed_one_left(tmp_path: Path) -> None:
    one = new_journal(tmp_path / "killed")
    left = rows(30)
    for row in left:
        one.append(row)
    # Its slot's lock went with it.
    shutil.copytree(tmp_path / "killed", tmp_path / "spool")

    counters = Counters()
    ledger = Ledger(counters, None, ManualClock())
    spool = Spool(tmp_path / "spool", ROOMY, recover=lambda slot: recover_journals(slot, None, ledger))
    assert spool.inherited_events == 30
    record = spool.take()
    assert record is not None
    assert record.payload is not None
    assert ids_of(record.payload) == [id_text(row[0]) for row in left]
    assert files(tmp_path / "spool") == []


@pytest.mark.req("T1.3")
def test_a_journal_that_finds_no_space_in_the_spool_stays_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = new_journal(tmp_path)
    for row in rows(3):
        one.append(row)
    [path] = journal_paths(tmp_path / "0")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    counters = Counters()
    monkeypatch.setattr(os, "fsync", full)
    recover_journals(path.parent, None, Ledger(counters, None, ManualClock()))
    monkeypatch.undo()

    assert counters.spool_errors == 1
    assert files(tmp_path) == [path]
    assert list(tmp_path.rglob("*.seg")) == []


@pytest.mark.req("T7.2", "T7.3")
def test_a_running_process_takes_over_what_others_leave(tmp_path: Path) -> None:
    core = Core(spool_dir=tmp_path, spool_scan=10.0)
    core.settle()
    claim = Claim(tmp_path)
    one = Journal(claim, "test/1", max_bytes=ROOMY, retry=5.0, clock=core.clock)
    theirs = rows(5)
    for row in theirs:
        one.append(row)
    core.run(11)
    assert core.counters.inherited == 0, "its process is alive"
    claim.release()

    core.run(11)

    assert core.capture.counted == {id_text(row[0]) for row in theirs}
    assert core.counters.inherited == 5
