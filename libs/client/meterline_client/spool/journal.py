"""The journal: what was recorded and is in no batch yet, kept where the end of the process cannot lose it.

Every event is copied into a file that is mapped into memory, before `record` returns. That is no system call
and no wait for the disk, and from then on the kernel has the event: it reaches the file however the process
ends, by os._exit, by SIGKILL or by a signal without a handler. A power failure is another matter: the kernel
writes the file back when it sees fit, so only batches in the spool are certain to survive that.

A file is filled once, from the front. It starts with eight bytes that name the format and the offset up to
which events are done with. A frame is the length of its body, a CRC-32 of it, and the body; the first one
holds the source, each other one an event. The zeros that the file was made of end it.
"""

from __future__ import annotations

import errno
import marshal
import mmap
import os
import struct
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meterline_client.clock import Clock
from meterline_client.events import Row
from meterline_client.spool.slots import JOURNAL_SUFFIX, Claim

_MAGIC = b"MLJRNL\x01\n"
_DONE = struct.Struct("<Q")
_FRAMES_FROM = len(_MAGIC) + _DONE.size
_HEADER = struct.Struct("<II")

# Some thousand events. The space is reserved as a whole, by every process that records.
_FILE_BYTES = 1 << 20

# Only texts, bytes, integers, tuples and a dictionary are written, in a form that every Python 3 reads. It is
# by far the fastest one, and the application waits for it.
_MARSHAL_VERSION = 2

_pack_header = _HEADER.pack
_crc32 = zlib.crc32
# Raises ValueError for what it cannot write.
_dumps: Callable[[Any, int], bytes] = marshal.dumps


class JournalFullError(OSError):
    """The journal has as many bytes as it may have."""


@dataclass(slots=True, eq=False)
class File:
    """A file of the journal; events up to `end` are in it, once it is filled."""

    path: Path
    pages: mmap.mmap
    first: int
    end: int

    def delete(self) -> None:
        """Nothing in it is needed any more. OSError when it cannot be deleted."""
        self.pages.close()
        self.path.unlink(missing_ok=True)


class Journal:
    """The events of one process. Its caller makes sure that one thread at a time uses it.

    `append` may be interrupted by a signal handler that appends, too.
    """

    def __init__(self, claim: Claim, source: str, *, max_bytes: int, retry: float, clock: Clock) -> None:
        """Touches the disk with the first event. After an error it does so again `retry` seconds later."""
        self._claim = claim
        self._source = _frame(source)
        self._max_bytes = max_bytes
        self._retry = retry
        self._clock = clock
        # No two journals share names, so that those of ended processes can be moved to a living one's folder.
        self._name = uuid.uuid4().hex
        self._numbers = 0
        self._files: deque[File] = deque()
        self._marks: deque[tuple[int, File, int]] = deque()
        self._pages: mmap.mmap | bytearray = bytearray()
        self._position = self._limit = 0
        self._starting = False
        self._blocked_until = 0.0
        self._error: OSError | None = None

    def append(self, row: Row) -> bool:
        """Whether the event is safe from the end of the process now."""
        body = _body(row)
        frame = _pack_header(len(body), _crc32(body)) + body
        # No call between these two lines: a signal handler that appends runs before or after them.
        start = self._position
        self._position = end = start + len(frame)
        if end > self._limit:
            return self._append_to_new_file(frame, start)
        self._pages[start:end] = frame
        return True

    def mark(self, sequence: int) -> None:
        """What was appended since the mark before is the chunk with this number."""
        if self._files:
            file = self._files[-1]
            self._marks.append((sequence, file, self._position if self._limit else file.end))

    def release(self, sequence: int) -> list[File]:
        """Chunks up to this one need the journal no longer. Answers with the files that hold nothing else;
        the caller deletes them."""
        reached = None
        while self._marks and self._marks[0][0] <= sequence:
            reached = self._marks.popleft()
        if reached is None:
            return []
        _, file, end = reached
        gone = []
        while self._files[0] is not file:
            gone.append(self._files.popleft())
        _DONE.pack_into(file.pages, len(_MAGIC), end)
        return gone

    def take_error(self) -> OSError | None:
        """Why an event since the last call could not be kept."""
        error, self._error = self._error, None
        return error

    def is_own(self, path: Path) -> bool:
        return path.name.startswith(self._name)

    def close(self) -> None:
        """The end. Events that were not released stay on disk, for the next process. OSError when the disk
        fails."""
        self._settle()
        self._starting = True  # no file is begun any more
        if not self._files:
            return
        last = self._files[-1]
        done = _DONE.unpack_from(last.pages, len(_MAGIC))[0] == last.end
        for file in self._files:
            if done:
                file.delete()
            else:
                file.pages.flush()
                file.pages.close()
        self._files.clear()

    def release_copy(self) -> None:
        """In a child after fork: lets go of the parent's files, and writes nothing to them."""
        self._limit = 0
        self._starting = True
        for file in self._files:
            file.pages.close()
        self._files.clear()

    def _settle(self) -> None:
        """No more goes into the last file."""
        if self._limit:
            self._files[-1].end = self._position
        # Until there is another, what a signal handler records finds no space, too.
        self._position = self._limit = 0

    def _append_to_new_file(self, frame: bytes, start: int) -> bool:
        self._position = start
        self._settle()
        if self._starting or self._clock.monotonic() < self._blocked_until:
            return False
        self._starting = True
        try:
            file = self._new_file(len(frame))
        except OSError as error:
            # Without a folder there is no spool either, and opening the spool reports that.
            self._error = None if self._claim.failed else error
            self._blocked_until = self._clock.monotonic() + self._retry
            return False
        finally:
            self._starting = False
        self._files.append(file)
        self._pages = file.pages
        self._position = file.first + len(frame)
        self._pages[file.first : self._position] = frame
        self._limit = len(file.pages)
        return True

    def _new_file(self, frame_bytes: int) -> File:
        directory = self._claim.slot().path
        first = _FRAMES_FROM + len(self._source)
        size = max(_FILE_BYTES, first + frame_bytes)
        held = sum(len(file.pages) for file in self._files)
        if held + size > self._max_bytes:
            raise JournalFullError(errno.ENOSPC, f"{held} of {self._max_bytes} bytes are in use")
        self._numbers += 1
        path = directory / f"{self._name}-{self._numbers:06d}{JOURNAL_SUFFIX}"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            # All of it beforehand: to write to a mapped page that the disk has no space for is a SIGBUS.
            _reserve(file, size)
            pages = mmap.mmap(file, size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        pages[:first] = _MAGIC + _DONE.pack(first) + self._source
        return File(path, pages, first, first)


@dataclass(frozen=True, slots=True)
class Left:
    """What an ended process left in a file: the source, and events that are not done with. `damaged`: there
    is more in the file, which cannot be read."""

    source: str
    rows: list[Row]
    damaged: bool


def read(path: Path) -> Left:
    """OSError when the file cannot be read; ValueError when it is no journal."""
    content = path.read_bytes()
    if content[: len(_MAGIC)] != _MAGIC:
        if content.strip(b"\0"):
            raise ValueError(f"{path} is no journal")
        return Left("", [], damaged=False)  # its process ended before it wrote anything
    done = _DONE.unpack_from(content, len(_MAGIC))[0]
    offset = _FRAMES_FROM
    bodies: list[tuple[int, bytes]] = []
    while offset + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, offset)
        body = content[offset + _HEADER.size : offset + _HEADER.size + length]
        if not length or len(body) < length or zlib.crc32(body) != checksum:
            break
        offset += _HEADER.size + length
        bodies.append((offset, body))
    damaged = bool(content[offset:].strip(b"\0"))
    if not bodies:
        return Left("", [], damaged)
    source = marshal.loads(bodies[0][1])
    # An offset that is no frame's is damaged, too; what is sent again then counts once all the same.
    known = any(end == done for end, _ in bodies)
    rows = [marshal.loads(body) for end, body in bodies[1:] if not known or end > done]
    return Left(source, rows, damaged)


def _frame(value: str) -> bytes:
    body = _dumps(str.__str__(value), _MARSHAL_VERSION)
    return _pack_header(len(body), _crc32(body)) + body


def _body(row: Row) -> bytes:
    if row[7] is not None:  # the trace is of this process only
        row = (*row[:7], None, row[8])
    try:
        return _dumps(row, _MARSHAL_VERSION)
    except ValueError:
        # A text of a subclass, such as a StrEnum's.
        return _dumps(_plain(row), _MARSHAL_VERSION)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    if isinstance(value, dict):
        return {_plain(name): _plain(one) for name, one in value.items()}
    return value


def _reserve(file: int, size: int) -> None:
    """OSError when the disk has no space for the file."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        else:
            return
    view = memoryview(bytes(size))
    while view:
        view = view[os.write(file, view) :]
