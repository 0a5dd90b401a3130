"""The spool as delivery uses it: errors are counted and waited out, never raised."""

from __future__ import annotations

import logging
from functools import partial

from meterline_client.batches import Batch
from meterline_client.ledger import Ledger
from meterline_client.recovery import recover_journals
from meterline_client.spool import Journal, Spool, SpoolFullError
from meterline_client.spool.segment import Record
from meterline_client.spool.slots import Claim
from meterline_client.tuning import Tuning

log = logging.getLogger(__name__)


def open_spool(
    claim: Claim | None, journal: Journal | None, ledger: Ledger, tuning: Tuning
) -> Spooling | None:
    """None without a `spool_dir`, or when the folder cannot be used: that is counted and logged."""
    if claim is None:
        return None
    recover = partial(recover_journals, own=journal, ledger=ledger)
    try:
        spool = Spool(claim.directory, tuning.max_spool_bytes, claim, recover)
    except OSError as error:
        ledger.counters.spool_errors += 1
        log.error("there is no spool: %s", error)
        return None
    return Spooling(spool, ledger, tuning.spool_retry)


class Spooling:
    """`retry` seconds pass after an error before the disk is tried again."""

    def __init__(self, spool: Spool, ledger: Ledger, retry: float) -> None:
        self._spool = spool
        self._ledger = ledger
        self._counters = ledger.counters
        self._retry = retry
        self._unreadable = 0
        self.blocked_until = 0.0
        self._count_inherited()

    def inherit(self) -> None:
        """Takes over what processes that have ended left."""
        try:
            self._spool.inherit()
        except OSError as error:
            self._error("cannot take over what ended processes left in the spool", error)
        self._count_inherited()

    def store(self, batch: Batch, now: float) -> bool:
        """Whether the batch is on disk now."""
        try:
            self._spool.append(batch.payload, batch.count)
        except (SpoolFullError, OSError) as error:
            self._error("cannot write to the spool", error)
            self.blocked_until = now + self._retry
            return False
        self._counters.spooled += batch.count
        return True

    def take(self) -> Record | None:
        """The oldest batch that can be read; those that cannot are counted as dropped."""
        while (record := self._spool.take()) is not None:
            self._report_unreadable()
            if record.payload is not None:
                return record
            self._counters.spooled -= record.count
            self._ledger.dropped([], record.count, "SPOOL_DAMAGED", "")
            log.error("the spool is damaged: %d events are lost", record.count)
            self.ack(record)
        return None

    def ack(self, record: Record) -> None:
        """The batch needs to be on disk no longer. Its events are uncounted as they get their outcome."""
        try:
            self._spool.ack(record)
        except OSError as error:
            self._error("cannot delete from the spool", error)

    def position(self) -> int:
        """The number of records that were put in so far."""
        return self._spool.appended

    def is_past(self, position: int) -> bool:
        """Whether the records up to a position are done."""
        return self._spool.acked >= position

    def close(self) -> None:
        self._spool.close()

    def _count_inherited(self) -> None:
        more = self._spool.inherited_events - self._counters.inherited
        self._counters.inherited += more
        self._counters.spooled += more
        self._report_unreadable()

    def _error(self, what: str, error: Exception) -> None:
        self._counters.spool_errors += 1
        self._ledger.warn(what, "%s", error)

    def _report_unreadable(self) -> None:
        for path in self._spool.unreadable[self._unreadable :]:
            self._counters.spool_errors += 1
            log.error("%s is left as it is: it cannot be read", path)
        self._unreadable = len(self._spool.unreadable)
