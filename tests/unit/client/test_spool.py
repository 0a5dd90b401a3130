"""The spool keeps confirmed batches despite crashes and disk errors."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.spool import Spool, SpoolFullError
from meterline_client.spool.segment import MAGIC, Record

ROOMY = 1 << 20


def drain(spool: Spool) -> list[bytes | None]:
    """Reads and acknowledges all payloads, one by one."""
    payloads = []
    while (record := spool.take()) is not None:
        payloads.append(record.payload)
        spool.ack(record)
    return payloads


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.seg"))


def written(directory: Path, payloads: list[bytes]) -> Path:
    """A spool with these payloads in one file, whose process has ended."""
    spool = Spool(directory, ROOMY)
    for payload in payloads:
        spool.append(payload, 1)
    spool.close()
    [path] = files(directory)
    return path


@pytest.mark.req("T1.3", "T7.2")
@settings(deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=400), max_size=20),
    restart=st.booleans(),
    segment_bytes=st.sampled_from([1, 500, 1 << 20]),
)
def test_spool_returns_batches_in_order_and_deletes_them(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], restart: bool, segment_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, ROOMY)
    spool._segment_bytes = segment_bytes
    for count, payload in enumerate(payloads, start=1):
        spool.append(payload, count)
    if restart:
        spool.close()
        spool = Spool(directory, ROOMY)
        assert spool.inherited_events == sum(range(len(payloads) + 1))

    assert drain(spool) == payloads
    assert spool.appended == spool.acked == len(payloads)
    assert files(directory) == []
    assert spool.size == 0
    spool.close()


@pytest.mark.req("T7.2", "T7.3")
def test_batch_is_synced_before_confirmation(tmp_path: Path, synced: list[int]) -> None:
    spool = Spool(tmp_path, ROOMY)
    for number in range(1, 4):
        spool.append(b"x" * 100, 1)
        assert synced[-1] == len(MAGIC) + number * 112 == files(tmp_path)[0].stat().st_size


@pytest.mark.req("T7.2")
def test_reads_and_writes_interleave(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOMY)
    seen: list[bytes | None] = []
    for number in range(10):
        spool.append(b"a%d" % number, 1)
        spool.append(b"b%d" % number, 1)
        record = spool.take()
        assert record is not None
        seen.append(record.payload)
        spool.ack(record)
    seen += drain(spool)

    assert sorted(filter(None, seen)) == sorted(b"%c%d" % (c, n) for c in b"ab" for n in range(10))
    assert seen[:4] == [b"a0", b"b0", b"a1", b"b1"]


@pytest.mark.req("T1.3", "T7.2")
@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4),
    cut=st.integers(0, 300),
    tail=st.sampled_from([b"", b"\0" * 40, b"\xff" * 40]),
)
def test_torn_write_loses_only_the_torn_record(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int, tail: bytes
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    path = written(directory, payloads)
    content = path.read_bytes()
    torn = content[: max(0, len(content) - cut)] + tail
    path.write_bytes(torn)

    whole, end, good = [], len(MAGIC), len(MAGIC)
    for payload in payloads:
        end += 12 + len(payload)
        # Compared by content, since the garbage may equal the bytes that were cut off.
        if torn[:end] == content[:end]:
            whole.append(payload)
            good = end

    spool = Spool(directory, ROOMY)
    # Garbage may complete a torn record to its length; shorter garbage leaves no record.
    if not tail or len(set(torn[good:])) == 1:
        assert spool.appended == spool.inherited_events == len(whole)
    spool.append(b"new", 1)
    found = [payload for payload in drain(spool) if payload is not None]
    spool.close()

    assert found == [*whole, b"new"]


@pytest.mark.req("T1.3", "T7.2")
@settings(deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_damaged_byte_never_yields_a_wrong_batch(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    payloads = [b"first" * 9, b"second" * 9, b"third" * 9]
    path = written(directory, payloads)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= flip
    path.write_bytes(content)

    spool = Spool(directory, ROOMY)
    found = drain(spool)
    spool.append(b"new", 1)

    assert [payload for payload in found if payload] == [one for one in payloads if one in found]
    assert drain(spool) == [b"new"]
    spool.close()


@pytest.mark.req("T7.2")
def test_damage_within_a_file_loses_one_batch(tmp_path: Path) -> None:
    path = written(tmp_path, [b"first", b"second", b"third"])
    path.write_bytes(path.read_bytes().replace(b"second", b"sXcond"))

    spool = Spool(tmp_path, ROOMY)

    assert drain(spool) == [b"first", None, b"third"]


@pytest.mark.req("T1.3", "T7.2")
def test_crash_before_the_last_ack_resends_the_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOMY)
    for payload in (b"first", b"second"):
        spool.append(payload, 1)
    record = spool.take()
    assert record is not None
    spool.ack(record)
    spool.close()

    assert drain(Spool(tmp_path, ROOMY)) == [b"first", b"second"]


@pytest.mark.req("T7.1", "T7.2")
def test_spool_is_bounded_and_reuses_acknowledged_space(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100_000)
    for _ in range(11):
        spool.append(b"x" * 9_000, 1)
    with pytest.raises(SpoolFullError, match="of 100000 bytes are in use"):
        spool.append(b"x" * 9_000, 1)
    on_disk = sum(path.stat().st_size for path in files(tmp_path))

    assert 90_000 < on_disk == spool.size <= 100_000
    assert len(drain(spool)) == spool.appended
    spool.append(b"x" * 9_000, 1)


def broken(fails: Callable[[], bool], real: Callable[..., int | None]) -> Callable[..., int | None]:
    def call(*args: object) -> int | None:
        if fails():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    return call


@pytest.mark.req("T7.2")
@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("failing", [0, 1, 2, 3, 4])
def test_failing_disk_keeps_confirmed_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failing: int
) -> None:
    calls = iter(range(1_000))
    monkeypatch.setattr(os, call, broken(lambda: next(calls) == failing, getattr(os, call)))
    spool = Spool(tmp_path, ROOMY)
    confirmed = []
    for payload in (b"one", b"two", b"three", b"four"):
        try:
            spool.append(payload, 1)
        except OSError:
            continue
        confirmed.append(payload)
    monkeypatch.undo()
    spool.close()

    found = drain(Spool(tmp_path, ROOMY))

    assert len(confirmed) == 3
    # An unconfirmed batch may be on disk too. It is then sent twice, which counts once.
    assert [payload for payload in found if payload in confirmed] == confirmed


@pytest.mark.req("T7.2")
@pytest.mark.parametrize("step", [1, 2], ids=["at the file's name", "at its first record"])
def test_full_disk_does_not_accumulate_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    spool = Spool(tmp_path, ROOMY)
    calls = itertools.count(1)
    monkeypatch.setattr(os, "fsync", broken(lambda: next(calls) % step == 0, os.fsync))
    for _ in range(20):
        with pytest.raises(OSError, match="No space"):
            spool.append(b"x", 1)

    assert files(tmp_path) == []


@pytest.mark.req("T7.2")
def test_vanished_file_is_counted_as_lost(tmp_path: Path) -> None:
    path = written(tmp_path, [b"first", b"second"])
    spool = Spool(tmp_path, ROOMY)
    path.unlink()
    spool.append(b"new", 1)

    record = spool.take()

    assert record == Record(None, 2, 2)
    assert spool.unreadable == [path]
    spool.ack(record)
    assert drain(spool) == [b"new"]


@pytest.mark.req("T7.2")
def test_foreign_file_is_left_untouched(tmp_path: Path) -> None:
    path = written(tmp_path, [b"first"])
    path.write_bytes(b"something else altogether")

    spool = Spool(tmp_path, ROOMY)

    assert spool.unreadable == [path]
    assert drain(spool) == []
    assert path.read_bytes() == b"something else altogether"


@pytest.mark.req("T4.1")
def test_spool_is_unreadable_for_other_accounts(tmp_path: Path) -> None:
    path = written(tmp_path / "spool", [b"first"])

    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.req("T1.3")
def test_two_spools_in_one_folder_are_independent(tmp_path: Path) -> None:
    one, other = Spool(tmp_path, ROOMY), Spool(tmp_path, ROOMY)
    one.append(b"one", 1)
    other.append(b"other", 1)

    assert drain(one) == [b"one"]
    assert drain(other) == [b"other"]


@pytest.mark.req("T1.3", "T7.2")
def test_spool_of_an_ended_process_is_taken_over(tmp_path: Path) -> None:
    spools = [Spool(tmp_path, ROOMY) for _ in range(3)]
    for number, spool in enumerate(spools):
        spool.append(b"%d" % number, number + 1)
    spools[1].close()
    spools[2].close()

    heir = Spool(tmp_path, ROOMY)

    assert sorted(filter(None, drain(heir))) == [b"1", b"2"]
    assert heir.inherited_events == 5
    assert drain(spools[0]) == [b"0"]


@pytest.mark.req("T1.3")
def test_unusable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file", ROOMY)
