"""The spool as a queue of batches: append at one end, take and acknowledge at the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from meterline_client.spool import slots
from meterline_client.spool.segment import MAGIC, Reader, Record, Segment, Writer, record_size, scan

_SMALLEST_SEGMENT_BYTES = 64 << 10
_LARGEST_SEGMENT_BYTES = 8 << 20
_SEGMENTS_PER_SPOOL = 16


class SpoolFullError(Exception):
    """The spool has no space for the batch; it will once older batches are acknowledged."""


class Spool:
    """Batches on disk, oldest first. For one thread, and one process: see `slots`.

    One batch is taken at a time; `ack` records that the server has it. A file is deleted when all its batches
    are acknowledged, so after a crash some are sent again, with the same bytes, and are duplicates then.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        claim: slots.Claim | None = None,
        recover: Callable[[Path], None] | None = None,
    ) -> None:
        """Takes over what earlier processes left. `claim`: of a slot below the directory, when a journal
        shares it; `recover` makes segments of the journals in a slot. OSError when the folder cannot be
        used."""
        self._directory = directory
        self._slot = (claim or slots.Claim(directory)).slot()
        self._recover = recover
        self._max_bytes = max_bytes
        self._segment_bytes = min(
            _LARGEST_SEGMENT_BYTES, max(_SMALLEST_SEGMENT_BYTES, max_bytes // _SEGMENTS_PER_SPOOL)
        )
        self._segments: deque[Segment] = deque()
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._last_number = 0
        self.unreadable: list[Path] = []
        """Files that are no segments, left where they are."""
        self.appended = 0
        """Records that were ever in it, those that it took over included."""
        self.inherited_events = 0
        """Events that were ever taken over."""
        self.acked = 0
        """Records of `appended` that are done; the oldest go first."""
        self.inherit()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.end for segment in self._segments)

    def inherit(self) -> None:
        """Takes over what processes that have ended left, behind what it holds. OSError when that fails."""
        slots.adopt(self._directory, self._slot)
        if self._recover is not None:
            self._recover(self._slot.path)
        known = {segment.path for segment in self._segments}.union(self.unreadable)
        found = [item for item in slots.segment_paths(self._slot.path) if item[1] not in known]
        if found:
            # What is appended from now on goes behind them.
            self._close_writer()
        for number, path in found:
            self._last_number = max(self._last_number, number)
            segment = scan(path, number)
            if segment is None and path.stat().st_size >= len(MAGIC):
                self.unreadable.append(path)
            elif segment is None or not segment.records:
                path.unlink()
            else:
                self._segments.append(segment)
                self.appended += segment.records
                self.inherited_events += segment.events

    def append(self, payload: bytes, count: int) -> None:
        """The batch is on disk when this returns. SpoolFullError or OSError when it is not."""
        needed = record_size(payload) + (len(MAGIC) if self._writer is None else 0)
        if self.size + needed > self._max_bytes:
            raise SpoolFullError(f"{self.size} of {self._max_bytes} bytes are in use")
        writer = self._writer or self._new_segment()
        try:
            writer.append(payload, count)
        except OSError:
            # What is behind the last good record is unknown now; a new file has no such past.
            self._close_writer()
            if not writer.segment.records:
                self._drop(writer.segment)
            raise
        self.appended += 1
        if writer.segment.end >= self._segment_bytes:
            self._close_writer()

    def take(self) -> Record | None:
        """The oldest batch that was not taken; None when there is none. `ack` it before the next one."""
        while self._segments:
            segment = self._segments[0]
            try:
                if self._reader is None:
                    self._reader = Reader(segment)
                record = self._reader.next()
            except OSError:
                return self._give_up(segment)
            if record is not None:
                return record
            if self._writer is not None and self._writer.segment is segment:
                return None
            self._drop(segment)
        return None

    def ack(self, record: Record) -> None:
        """The batch that was taken is done; its file is deleted when it was the last in it."""
        self.acked += record.records
        if self.acked == self.appended:
            self._close_writer()
            for segment in list(self._segments):
                self._drop(segment)

    def close(self) -> None:
        """What is left stays on disk for the next process."""
        self._close_writer()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._slot.release()

    def _new_segment(self) -> Writer:
        self._last_number += 1
        path = slots.segment_path(self._slot.path, self._last_number)
        self._writer = Writer(path, self._last_number)
        self._segments.append(self._writer.segment)
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _drop(self, segment: Segment) -> None:
        self._forget(segment)
        segment.path.unlink(missing_ok=True)

    def _give_up(self, segment: Segment) -> Record:
        """A file that cannot be read now. It stays: the next process may be able to read it."""
        lost = self._reader.rest() if self._reader else Record(None, segment.events, segment.records)
        if self._writer is not None and self._writer.segment is segment:
            self._close_writer()
        self.unreadable.append(segment.path)
        self._forget(segment)
        return lost

    def _forget(self, segment: Segment) -> None:
        if self._reader is not None and segment is self._segments[0]:
            self._reader.close()
            self._reader = None
        self._segments.remove(segment)
