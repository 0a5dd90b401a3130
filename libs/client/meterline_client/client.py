"""The client: what applications call."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import grpc

from meterline_client import lifecycle
from meterline_client.aio import AsyncMethods
from meterline_client.breaker import BreakerState
from meterline_client.buffer import Buffer
from meterline_client.clock import Clock, SystemClock
from meterline_client.delivery import Delivery
from meterline_client.ledger import Ledger, OutcomeCallback
from meterline_client.limits import MAX_BATCH_EVENTS, MAX_SOURCE_LENGTH
from meterline_client.recording import Recorder, check_source
from meterline_client.signing import CaptureConfig, CaptureConfigs, to_configs
from meterline_client.spool import Journal
from meterline_client.spool.slots import Claim
from meterline_client.spooling import open_spool
from meterline_client.stats import Counters, Stats
from meterline_client.tracing import find_tracing
from meterline_client.transport import GrpcTransport, Metadata, bearer
from meterline_client.tuning import Tuning
from meterline_client.window import Parcel
from meterline_client.worker import Worker

log = logging.getLogger(__name__)

# How long a fork waits for calls that are on their way.
_LONGEST_PAUSE = 1.0

# A connection of the parent must not be used in a child, nor closed: it is kept, and left alone.
_of_parents: list[Worker] = []


class Client(AsyncMethods):
    """Records usage events and delivers them in the background, at least once and with one effect.

    Create one for a process and use it from any thread. It starts its thread and opens its connection with
    the first event, so it may be created before the process forks.
    """

    def __init__(
        self,
        target: str,
        *,
        source: str,
        tenant_id: str = "",
        api_key: str | None = None,
        capture_config: CaptureConfig | CaptureConfigs | None = None,
        spool_dir: str | os.PathLike[str] | None = None,
        journal: bool = True,
        max_buffer_events: int = 100_000,
        batch_events: int = 5_000,
        flush_interval: float = 0.5,
        on_outcome: OutcomeCallback | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        tuning: Tuning | None = None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            target: `host:port` of the ingest service.
            source: What sends the events, for example `gateway/eu-1`; the same after a restart.
            tenant_id: Tenant of events that name none.
            api_key: Sent with every call and nowhere else; without `credentials` it travels in plain text.
            capture_config: In place of a key, for an untrusted client: the answer of `IssueCaptureConfig`,
                or a function that is called for it at every call. `source` must be the one that it
                was issued for.
            spool_dir: Folder on a local disk for events that are not sent yet; processes may share it.
                None: these are in memory only, and lost with a process that is killed.
            journal: Whether each event is in the spool before `record` returns, or only if it cannot be sent.
            max_buffer_events: Events in memory, not counting those of the few batches on their way.
            batch_events: Events of a call, at most 10,000.
            flush_interval: Seconds that an event waits for others to be sent with it.
            on_outcome: Called for each event that does not count, in the client's thread. It may record
                events, and must not wait long. Without it, warnings are logged.
            credentials: For TLS; None is a connection in plain text.
            metadata: Headers of every call.
            tuning: What is rarely changed.

        ValueError or TypeError, naming the argument, when one is wrong.
        """
        headers = (*metadata, *bearer(api_key))
        _check_arguments(source, batch_events, max_buffer_events, flush_interval)
        self._source = source
        self._spool_dir = None if spool_dir is None else Path(spool_dir)
        self._journaling = journal
        self._max_buffer_events = max_buffer_events
        self._batch_events = batch_events
        self._flush_interval = flush_interval
        self._on_outcome = on_outcome
        self._tuning = tuning or Tuning()
        self._clock = clock or SystemClock()
        self._tracing = find_tracing()
        self._recorder = Recorder(tenant_id, self._clock, self._tracing.current if self._tracing else None)
        configs = None if capture_config is None else to_configs(capture_config, api_key)
        self._new_transport = partial(GrpcTransport, target, credentials, headers, configs)
        self._closed: bool | None = None
        self._begin()
        lifecycle.register(self)

    def record(
        self,
        event_type: str,
        /,
        subject: str = "",
        *,
        time: datetime | None = None,
        dimensions: Mapping[str, str] | None = None,
        quantities: Mapping[str, int | Decimal] | None = None,
        properties: Mapping[str, str] | None = None,
        event_id: str | UUID | None = None,
        tenant_id: str | None = None,
    ) -> str:
        """Takes an event, and answers with its id (a new UUIDv7 unless one is given).

        Usage is counted by dimensions; properties are only stored, as texts of the kinds that the type gives.

        Never waits, and never raises because of the network, the server or the disk. Misuse raises at once,
        naming field and rule: TypeError (a float as a quantity), ValueError (a time without a zone, a text
        that is too long), RuntimeError (the client is closed).

        With a `spool_dir` and its journal, the event outlives the process from the moment this returns,
        though not a power failure before it is sent or in the spool. Without, it is in memory until the
        server answers.
        """
        identity, row, weight = self._recorder.row(
            event_type, subject, time, dimensions, quantities, event_id, tenant_id, properties
        )
        self._buffer.add(row, weight)
        return identity

    def flush(self, timeout: float | None = 10.0) -> bool:
        """Sends what was recorded before, at once. True when the server has answered for all of it (what is
        in the spool included) within `timeout` seconds; None waits for as long as it takes."""
        if self._closed is not None:
            return self._closed
        worker = self._running()
        worker.check_caller()
        return worker.flush(self._buffer.seal(), timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Flushes, writes unsent events to disk, and ends. True when the server has answered for all.

        Called automatically at the end of the process. A second call does nothing.
        """
        if self._worker is not None:
            self._worker.check_caller()
        with self._closing:
            if self._closed is None:
                self._buffer.close()
                idle = self._worker is None and not self._buffer.recorded
                self._closed = idle or self._finish(timeout)
            return self._closed

    @property
    def stats(self) -> Stats:
        """Counts since the client began."""
        counters, buffer = self._counters, self._buffer
        return Stats(
            recorded=buffer.recorded,
            inherited=counters.inherited,
            accepted=counters.accepted,
            duplicate=counters.duplicate,
            conflict=counters.conflict,
            rejected=counters.rejected,
            failed=counters.failed,
            dropped=counters.dropped + buffer.dropped,
            buffered=buffer.events + counters.window,
            spooled=counters.spooled,
            retries=counters.retries,
            spool_errors=counters.spool_errors,
            breaker=self._worker.breaker if self._worker else BreakerState.CLOSED,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        self._counters = Counters()
        # Reentrant, because a signal handler may record, or close, while its thread does.
        self._starting = threading.RLock()
        self._closing = threading.RLock()
        self._worker: Worker | None = None
        self._claim = None if self._spool_dir is None else Claim(self._spool_dir)
        self._journal = None
        if self._claim is not None and self._journaling:
            self._journal = Journal(
                self._claim,
                self._source,
                max_bytes=self._tuning.max_spool_bytes,
                retry=self._tuning.spool_retry,
                clock=self._clock,
            )
        self._buffer = Buffer(
            max_events=self._max_buffer_events,
            max_bytes=self._tuning.max_buffer_bytes,
            chunk_events=self._batch_events,
            flush_interval=self._flush_interval,
            clock=self._clock,
            wake=self._wake,
            journal=self._journal,
        )

    def _wake(self) -> None:
        try:
            self._running().wake()
        except RuntimeError:
            # The thread could not start. The event is in the buffer; the next event or `close` tries again.
            lifecycle.hold(self)
            log.exception("delivery cannot start")

    def _running(self) -> Worker:
        with self._starting:
            if self._worker is None:
                worker = self._new_worker()
                worker.start()
                self._worker = worker
            return self._worker

    def _new_worker(self) -> Worker:
        return Worker(
            self._build, self._new_transport(), self._tracing, self._clock, self._tuning.call_timeout
        )

    def _finish(self, timeout: float) -> bool:
        before = self.stats
        sequence = self._buffer.seal()
        try:
            worker = self._running()
        except RuntimeError:
            # While the interpreter ends there are no new threads.
            self._worker = worker = self._new_worker()
            delivered = worker.stop_here(sequence, timeout)
        else:
            delivered = worker.stop(sequence, timeout)
        after = self.stats
        lost = after.dropped + after.failed - before.dropped - before.failed
        if self._journal is None:
            lost += after.buffered
        if lost:
            log.error(
                "the client closes and loses %d events: they have no answer, and no place in a spool", lost
            )
        return delivered

    def _build(self, send: Callable[[Parcel], None]) -> Delivery:
        ledger = Ledger(self._counters, self._on_outcome, self._clock)
        return Delivery(
            buffer=self._buffer,
            spooling=open_spool(self._claim, self._journal, ledger, self._tuning),
            source=self._source,
            tuning=self._tuning,
            clock=self._clock,
            rng=random.Random(),
            ledger=ledger,
            send=send,
        )

    def _before_fork(self) -> None:
        if self._worker is not None:
            self._worker.pause(_LONGEST_PAUSE)

    def _after_fork_in_parent(self) -> None:
        if self._worker is not None:
            self._worker.resume()

    def _after_fork_in_child(self) -> None:
        # Earlier events belong to the parent, which sends them; its threads and connections do not exist
        # here.
        if self._worker is not None:
            _of_parents.append(self._worker)
        # Its files, too: the child claims a place of its own in the spool with its first event.
        if self._journal is not None:
            self._journal.release_copy()
        if self._claim is not None:
            self._claim.release()
        if self._closed is None:
            self._begin()


def _check_arguments(source: str, batch_events: int, max_buffer_events: int, flush_interval: float) -> None:
    check_source(source, MAX_SOURCE_LENGTH)
    if not 1 <= batch_events <= MAX_BATCH_EVENTS:
        raise ValueError(f"batch_events: must be 1 to {MAX_BATCH_EVENTS}")
    if max_buffer_events < batch_events:
        raise ValueError("max_buffer_events: must not be less than batch_events")
    if not flush_interval >= 0:
        raise ValueError("flush_interval: must not be negative")
