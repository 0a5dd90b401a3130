"""Webhooks on their way: signed as Stripe signs, retried a bounded number of times with doubling pauses.

A delivery counts once the endpoint answers 2xx. Waiting deliveries survive a restart.
"""

import asyncio
import hmac
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import httpx

from .core import Core

CONCURRENCY = 8
_LONGEST_SLEEP = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One waiting row: `attempts` were made before."""

    seq: int
    endpoint: str
    payload: str
    attempts: int


def signature(payload: str, secret: str, at: int) -> str:
    """The `Stripe-Signature` header: a MAC over time (unix seconds) and body."""
    mac = hmac.new(secret.encode(), f"{at}.{payload}".encode(), sha256).hexdigest()
    return f"t={at},v1={mac}"


async def run(core: Core) -> None:
    """Deliver for ever: a handful at a time, asleep while nothing is due."""
    async with AsyncExitStack() as stack:
        client: httpx.AsyncClient | None = None
        while True:
            core.wake_deliveries.clear()
            while batch := _due(core):
                if client is None:
                    # Not made before it is needed: closing one imports for a third of a second.
                    client = _client(core)
                    await stack.enter_async_context(client)
                await asyncio.gather(*map(partial(_deliver, core, client), batch))
            try:
                async with asyncio.timeout(_until_next(core)):
                    await core.wake_deliveries.wait()
            except TimeoutError:
                continue


def _client(core: Core) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=core.settings.webhook_timeout, trust_env=False)


async def _deliver(core: Core, client: httpx.AsyncClient, delivery: Delivery) -> None:
    endpoint = core.store.find("webhook_endpoint", delivery.endpoint)
    if endpoint is None:
        _settle(core, delivery, "failed")
        return
    at = time.time_ns() // 1_000_000_000
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Stripe-Signature": signature(delivery.payload, endpoint["secret"], at),
        "User-Agent": "Stripe/1.0 (double)",
    }
    try:
        answer = await client.post(endpoint["url"], content=delivery.payload.encode(), headers=headers)
        delivered = answer.is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        delivered = False
    if delivered:
        _settle(core, delivery, "delivered")
    else:
        _postpone(core, delivery)


def _postpone(core: Core, delivery: Delivery) -> None:
    attempts = delivery.attempts + 1
    if attempts >= core.settings.webhook_attempts:
        _settle(core, delivery, "failed")
        return
    pause_ms = int(core.settings.webhook_backoff * 2 ** (attempts - 1) * 1_000)
    core.store.execute(
        "UPDATE deliveries SET attempts = ?, next_ms = ? WHERE seq = ?",
        attempts,
        _now_ms() + pause_ms,
        delivery.seq,
    )


def _settle(core: Core, delivery: Delivery, state: str) -> None:
    sql = "UPDATE deliveries SET state = ?, attempts = attempts + 1 WHERE seq = ?"
    core.store.execute(sql, state, delivery.seq)


def _due(core: Core) -> list[Delivery]:
    sql = (
        "SELECT seq, endpoint, payload, attempts FROM deliveries"
        " WHERE state = 'pending' AND next_ms <= ? ORDER BY next_ms, seq LIMIT ?"
    )
    return [Delivery(*row) for row in core.store.execute(sql, _now_ms(), CONCURRENCY)]


def _until_next(core: Core) -> float:
    """Seconds until the next attempt falls due."""
    sql = "SELECT min(next_ms) FROM deliveries WHERE state = 'pending'"
    next_ms: int | None = core.store.row(sql)[0]
    if next_ms is None:
        return _LONGEST_SLEEP
    return min(max((next_ms - _now_ms()) / 1_000, 0.0), _LONGEST_SLEEP)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
