"""What a broker must guarantee before a service starts on it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any, Final

from meterline.bus.address import BrokerAddress

_ANSWER_SECONDS: Final = 5.0
_INFO: Final = b"INFO "


class UnsafeBrokerError(Exception):
    """The broker would lose acknowledged messages, or take messages from anybody."""


class BrokerRefusedError(Exception):
    """The broker refused the service's login, or something that its login may not do."""


async def require_synced_jetstream(monitor_url: str) -> None:
    """Refuses a broker whose `sync_interval` is not `always` (docs/adr/0002).

    `monitor_url` is the broker's HTTP monitoring address. Raises UnsafeBrokerError, and OSError when the
    broker does not answer there.
    """
    if not monitor_url:
        raise UnsafeBrokerError("no METERLINE_NATS_MONITOR_URL: cannot check whether sync_interval is always")
    answer = await asyncio.to_thread(_read, f"{monitor_url.rstrip('/')}/varz")
    settings: dict[str, Any] = json.loads(answer).get("jetstream", {}).get("config", {})
    if not settings.get("sync_always"):
        raise UnsafeBrokerError(
            "the broker's JetStream needs `sync_interval: always`; set"
            " METERLINE_ALLOW_UNSYNCED_JETSTREAM=true only for development"
        )


async def require_logins(url: str) -> None:
    """Refuses a broker that lets clients in without a login (docs/adr/0013).

    `url` is what clients connect to. Raises UnsafeBrokerError, and OSError when the broker does not answer.
    """
    address = BrokerAddress.parse(url)
    async with asyncio.timeout(_ANSWER_SECONDS):
        greeting = await _greeting(address)
    if not greeting.get("auth_required"):
        raise UnsafeBrokerError(
            f"the broker at {address.server} takes messages without a login: configure its `authorization`"
            " (python -m meterline.bus.permissions); set METERLINE_ALLOW_OPEN_BROKER=true only for"
            " development"
        )


async def _greeting(address: BrokerAddress) -> dict[str, Any]:
    """The INFO that the broker sends to every client first, in plain text and before any login."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        line = await reader.readline()
    finally:
        writer.close()
    if not line.startswith(_INFO):
        raise OSError(f"no NATS server answers at {address.server}")
    greeting: dict[str, Any] = json.loads(line.removeprefix(_INFO))
    return greeting


def _read(url: str) -> bytes:
    """The body at `url`, past any proxy of the environment. Blocks for some seconds at most."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_ANSWER_SECONDS) as answer:
        body: bytes = answer.read()
    return body
