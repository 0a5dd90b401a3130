"""Messages of one durable consumer, as they come.

One pull request is always open, so an idle consumer costs a heartbeat, and a busy one takes everything that
has arrived as one batch. (The client's own `fetch` can block for its whole timeout across a broker restart.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from meterline import tasks
from meterline.bus.connection import FAILURES, Bus
from meterline.bus.subjects import Fact, pull_subject
from meterline.telemetry.logging import logger

log = logger()

HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 5.0
EXPIRES_SECONDS = 30.0

# Ends of a request that mean no more than that it was fulfilled.
_FULFILLED = ("Batch Completed", "Message Size Exceeds MaxBytes")


class Pull:
    """`start` and `stop` may be called twice. Between `pause` and `resume` it asks for nothing."""

    def __init__(
        self, bus: Bus, fact: Fact, name: str, *, max_messages: int, max_bytes: int, ack_wait: float
    ) -> None:
        self._bus = bus
        self._fact = fact
        self._name = name
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._ack_wait = ack_wait
        # Most messages of a batch at this moment; none while it is paused.
        self._batch = max_messages
        self._held_until = 0.0
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._requested = 0
        self._heard_at = 0.0
        self._reply_to = ""
        self._subscription: Subscription | None = None
        self._watch = tasks.every(HEARTBEAT_SECONDS, f"{name}-watch", self._look)
        # A reconnect, the watch and a stop may come at the same time.
        self._subscribing = asyncio.Lock()
        bus.on_reconnect(self._resume)

    async def start(self) -> None:
        """Makes the stream and the durable consumer where they are missing, and asks for messages."""
        async with self._subscribing:
            if not self._watch.running:
                await self._subscribe()
                await self._watch.start()

    async def stop(self) -> None:
        """Gives back what is queued, for another replica to take at once."""
        async with self._subscribing:
            await self._watch.stop()
            self._batch = self._max_messages
            await self._drain()
        while not self._queue.empty():
            await self.answer(self._queue.get_nowait().reply, b"-NAK")

    async def pause(self, delay: float) -> None:
        """Gives back what is queued, to come again after `delay` seconds, and asks for no more.

        What the open request still brings is given back too. Ending the subscription would be quicker, but
        what the broker is just then sending to it would stay unanswered until `ack_wait` is over: a few
        pauses of that kind, and everything that may be unanswered is.
        """
        self._batch = 0
        self._held_until = asyncio.get_running_loop().time() + delay
        while not self._queue.empty():
            await self.give_back(self._queue.get_nowait().reply, delay)

    async def resume(self, *, one_by_one: bool = False) -> None:
        """Asks again, after a pause or for more than one."""
        self._batch = 1 if one_by_one else self._max_messages
        if self._subscription is not None:
            await self._request()
            return
        try:
            await self._resume()
        except FAILURES as error:
            log.warning("consumer.resume_failed", consumer=self._name, error=str(error))
            self._heard_at = -SILENCE_SECONDS  # so that the watch asks soon

    async def take(self) -> list[Msg]:
        """Waits for a message; answers it with the others that are here, within the bounds of a batch."""
        batch = [await self._queue.get()]
        size = len(batch[0].data)
        while len(batch) < self._batch and size < self._max_bytes and not self._queue.empty():
            batch.append(self._queue.get_nowait())
            size += len(batch[-1].data)
        try:
            await self._request()
        except asyncio.CancelledError:
            for message in batch:
                self._queue.put_nowait(message)  # stopped: `stop` gives them back
            raise
        return batch

    async def answer(self, reply: str, answer: bytes) -> None:
        """A lost answer is no harm: the message comes again and the inbox knows it."""
        try:
            await self._bus.client.publish(reply, answer)
        except FAILURES as error:
            log.warning("consumer.answer_lost", consumer=self._name, error=str(error))

    async def give_back(self, reply: str, delay: float) -> None:
        """Has the broker deliver a message again after `delay` seconds, to whichever replica asks then."""
        await self.answer(reply, b"-NAK " + json.dumps({"delay": int(delay * 1e9)}).encode())

    async def _subscribe(self) -> None:
        await self._bus.ensure_streams(self._fact)
        with self._bus.naming_refusals():
            await self._bus.jetstream().add_consumer(
                self._fact.stream,
                ConsumerConfig(
                    durable_name=self._name,
                    filter_subject=self._fact.subject,
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self._ack_wait,
                    max_ack_pending=self._max_messages * 4,
                    max_deliver=-1,
                ),
            )
        client = self._bus.client
        self._reply_to = client.new_inbox()
        self._subscription = await client.subscribe(self._reply_to, cb=self._receive)
        self._requested = 0
        await self._request()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._bus.connected:
            # A connection that was closed for good took its subscriptions with it.
            with contextlib.suppress(nats.errors.ConnectionClosedError):
                await subscription.unsubscribe()

    async def _drain(self) -> None:
        """Ends the subscription once what the broker had sent by then is here: most of it would stay
        unanswered, and out of other replicas' reach, until `ack_wait` is over."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._bus.connected:
            try:
                await subscription.drain()  # type: ignore[no-untyped-call]
            except FAILURES as error:
                log.warning("consumer.not_drained", consumer=self._name, error=str(error))

    async def _request(self) -> None:
        """Keeps one open request for as much as there is room for."""
        room = 2 * self._batch - self._queue.qsize() - self._requested
        if self._subscription is None or not self._batch or (room < self._batch and self._requested > 0):
            return
        request = {
            "batch": max(1, room),
            "max_bytes": self._max_bytes,
            "expires": int(EXPIRES_SECONDS * 1e9),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1e9),
        }
        subject = pull_subject(self._fact, self._name)
        try:
            await self._bus.client.publish(subject, json.dumps(request).encode(), reply=self._reply_to)
        except FAILURES as error:
            # Disconnected: the reconnect asks again, or else the watch.
            log.info("consumer.not_asked", consumer=self._name, error=str(error))
            return
        self._requested += request["batch"]
        self._heard_at = asyncio.get_running_loop().time()

    async def _receive(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            self._requested = max(0, self._requested - 1)
            if self._batch:
                self._queue.put_nowait(message)
            else:
                await self.give_back(message.reply, max(0.0, self._held_until - self._heard_at))
        elif status != "100":  # 100 is a heartbeat; all others end the request
            left = headers.get("Nats-Pending-Messages")
            self._requested = max(0, self._requested - int(left)) if left else 0
            await self._request_ended(status, headers.get("Description", ""))

    async def _request_ended(self, status: str, why: str) -> None:
        if status == "408" or why in _FULFILLED:
            await self._request()
            return
        # Consumer deleted, leader changed, JetStream not there: asking at once would only spin.
        log.warning("consumer.request_ended", consumer=self._name, status=status, why=why)
        self._heard_at = -SILENCE_SECONDS

    async def _resume(self) -> None:
        async with self._subscribing:
            if not self._watch.running:
                return
            self._requested = 0
            if self._batch:
                await self._unsubscribe()
                await self._subscribe()

    async def _look(self) -> None:
        """Asks again when the broker has gone silent: a request does not survive its restart."""
        silent = asyncio.get_running_loop().time() - self._heard_at
        if silent < SILENCE_SECONDS or not self._bus.connected:
            return
        try:
            await self._resume()
        except FAILURES as error:
            log.warning("consumer.resume_failed", consumer=self._name, error=str(error))
