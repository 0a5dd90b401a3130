"""Journals of processes that have ended become batches in the spool."""

from __future__ import annotations

import logging
from pathlib import Path

from meterline_client.batches import cut
from meterline_client.ledger import Ledger
from meterline_client.spool import journal
from meterline_client.spool.segment import Writer
from meterline_client.spool.slots import journal_paths, segment_path, segment_paths

log = logging.getLogger(__name__)

# Of each batch. A journal's file holds a few thousand.
_BATCH_EVENTS = 5_000


def recover_journals(slot: Path, own: journal.Journal | None, ledger: Ledger) -> None:
    """Turns the journals in a slot, but for this process's own, into segments of the spool.

    A journal is deleted once all its events are on disk as batches, so a crash in between makes duplicates,
    which count once. One that cannot be read is left as it is, counted and logged.
    """
    for path in journal_paths(slot):
        if own is not None and own.is_own(path):
            continue
        try:
            left = journal.read(path)
            if left.rows:
                _to_segment(slot, left)
        except (OSError, ValueError, TypeError, EOFError) as error:
            # A full disk, a form that this version does not know: the next process may have more luck.
            ledger.counters.spool_errors += 1
            ledger.warn("a journal is left as it is", "%s: %s", path, error)
            continue
        if left.damaged:
            ledger.counters.spool_errors += 1
            log.error("%s is damaged after %d events: those behind them are lost", path, len(left.rows))
        path.unlink()


def _to_segment(slot: Path, left: journal.Left) -> None:
    held = segment_paths(slot)
    number = held[-1][0] + 1 if held else 1
    path = segment_path(slot, number)
    writer = Writer(path, number)
    try:
        for start in range(0, len(left.rows), _BATCH_EVENTS):
            for batch in cut(left.rows[start : start + _BATCH_EVENTS], left.source):
                writer.append(batch.payload, batch.count)
    except BaseException:
        # Half of it would be sent now, and all of it later.
        writer.close()
        path.unlink()
        raise
    writer.close()
