"""A segment: one append-only file of records.

A file starts with eight bytes that name the format. A record is the length of its payload, its number of
events and a CRC-32 over both and the payload (three little-endian uint32), then the payload. A file is
written by one process and never again after it: what a crash left of the last record is no record.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"MLSPOOL\x01"
_HEADER = struct.Struct("<III")
_NUMBERS = struct.Struct("<II")

# No batch is longer; a length beyond it is not the length of a record.
_MAX_PAYLOAD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """A batch on disk, and its number of events. `payload` is None when it was damaged; such a record may
    represent several that were lost with it."""

    payload: bytes | None
    count: int
    records: int = 1


@dataclass(slots=True, eq=False)
class Segment:
    """A file, how far it is valid, and what is in it."""

    path: Path
    number: int
    end: int
    records: int
    events: int


def record_size(payload: bytes) -> int:
    return _HEADER.size + len(payload)


def scan(path: Path, number: int) -> Segment | None:
    """Walk over the headers of a file that an earlier process left; None when it is no segment.

    Payloads are not read: whether they are sound is found out when they are needed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        segment = Segment(path, number, len(MAGIC), 0, 0)
        while (header := _read_header(file.read(_HEADER.size))) is not None:
            length, count, _ = header
            end = segment.end + _HEADER.size + length
            if end > size:
                break
            segment.end = end
            segment.records += 1
            segment.events += count
            file.seek(end)
        return segment


def _read_header(raw: bytes) -> tuple[int, int, int] | None:
    """Length, events, checksum; None for what cannot be a header, such as the zeros that a file system may
    leave behind a power failure."""
    if len(raw) < _HEADER.size:
        return None
    length, count, checksum = _HEADER.unpack(raw)
    return (length, count, checksum) if 0 < length <= _MAX_PAYLOAD_BYTES and count else None


class Writer:
    """Appends records to a new file; each is on disk when `append` returns."""

    def __init__(self, path: Path, number: int) -> None:
        self.segment = Segment(path, number, len(MAGIC), 0, 0)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            _write(self._file, MAGIC)
            sync_directory(path.parent)
        except OSError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    def append(self, payload: bytes, count: int) -> None:
        """OSError when it is not certain to be on disk; nothing may be appended to this file after that."""
        checksum = zlib.crc32(payload, zlib.crc32(_NUMBERS.pack(len(payload), count)))
        _write(self._file, _HEADER.pack(len(payload), count, checksum) + payload)
        os.fsync(self._file)
        self.segment.end += record_size(payload)
        self.segment.records += 1
        self.segment.events += count

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Reader:
    """Reads the records of one segment, in order, also of one that is still written to."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._file = segment.path.open("rb")
        self._offset = len(MAGIC)
        self._records = 0
        self._events = 0

    def next(self) -> Record | None:
        """None when all that is valid was read. OSError when the file is not what it was."""
        if self._offset >= self._segment.end:
            return None
        self._file.seek(self._offset)
        header = _read_header(self._file.read(_HEADER.size))
        if header is None:
            raise OSError(f"{self._segment.path} changed under its reader")
        length, count, checksum = header
        payload = self._file.read(length)
        self._offset += _HEADER.size + length
        self._records += 1
        self._events += count
        sound = zlib.crc32(payload, zlib.crc32(_NUMBERS.pack(length, count))) == checksum
        return Record(payload if sound else None, count)

    def rest(self) -> Record:
        """What was not read, as one lost record."""
        segment = self._segment
        return Record(None, segment.events - self._events, segment.records - self._records)

    def close(self) -> None:
        self._file.close()


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_directory(path: Path) -> None:
    """Makes the names of new files durable. Windows has no such call, and needs none."""
    if os.name != "posix":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
