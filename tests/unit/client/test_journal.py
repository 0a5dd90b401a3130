"""The journal keeps each event on disk from its recording until its release, however the process ends."""

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
    """The events that the next process would find if this one were killed now."""
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
def test_recorded_unreleased_events_are_recovered(
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
            if sequence < len(chunks):  # The last file is still open.
                one.mark(sequence)
        for file in one.release(released):
            file.delete()
    # The last event has no mark, so it cannot have been released.
    rest = recorded[min(released, len(chunks) - 1) :]

    assert kept(directory) == [row for chunk in rest for row in chunk]
    assert {journal.read(path).source for path in files(directory)} == {"test/1"}


@pytest.mark.req("T1.3")
def test_fully_released_journal_leaves_no_file(tmp_path: Path) -> None:
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
def test_torn_event_does_not_lose_others(
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
    # As if the process had died during a copy: some bytes written, some wrong, the rest zero.
    at = max(ends[0], ends[-1] - cut)
    content[at:] = torn + bytes(len(content) - at - len(torn))
    path.write_bytes(content)

    found = journal.read(path).rows
    whole = sum(end <= at for end in ends)
    assert found[:whole] == given_rows[:whole]
    assert all(row in given_rows for row in found)


@pytest.mark.req("T1.3", "T7.1")
def test_damaged_journal_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
def test_string_subclasses_are_stored_as_plain_strings(tmp_path: Path) -> None:
    one = new_journal(tmp_path)
    [row] = rows(1, dimensions={Kind.CALLED: Kind.CALLED})
    traced = (*row[:2], Kind.CALLED, *row[3:7], object(), row[8])

    assert one.append(traced)
    assert kept(tmp_path) == [without_trace(traced)]


@pytest.mark.req("T1.3")
def test_event_longer_than_a_file_gets_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_FILE_BYTES", 200)
    one = new_journal(tmp_path)
    long = rows(2, properties={f"p{n}": "x" * 4_000 for n in range(30)})

    assert [one.append(row) for row in long] == [True, True]
    assert kept(tmp_path) == long


@pytest.mark.req("T7.1")
def test_full_disk_is_reported_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert files(tmp_path) == [], "no files pile up on a full disk"
    monkeypatch.undo()

    assert not one.append(given_rows[2]), "no write is tried before the pause has passed"
    clock.advance(5)
    assert one.append(given_rows[3])
    assert kept(tmp_path) == [given_rows[3]]


@pytest.mark.req("T7.1")
def test_journal_is_bounded_and_reuses_released_space(tmp_path: Path) -> None:
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
def test_signal_handler_may_record_during_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_next_process_sends_events_of_a_killed_process(tmp_path: Path) -> None:
    one = new_journal(tmp_path / "killed")
    left = rows(30)
    for row in left:
        one.append(row)
    # The lock of its slot ended with the process.
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
def test_journal_stays_when_the_spool_has_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_running_process_takes_over_orphaned_journals(tmp_path: Path) -> None:
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
