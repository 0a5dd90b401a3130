"""Whether a NATS server makes every acknowledged message durable before it acknowledges it.

JetStream by default flushes to disk every two minutes, and so loses acknowledged messages on a power
cut. With `sync_interval: always` it does not. The server reports this at its monitoring port (`/varz`):
`jetstream.config.sync_always` is true then, and absent otherwise; the interval reported with it stays at its
default and means nothing when `sync_always` is set. Each server of a cluster reports only its own setting.
"""

import http.client
import json
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit


class NotDurableError(RuntimeError):
    """The server may lose messages that it has acknowledged, or does not say that it may not."""


@dataclass(frozen=True, slots=True)
class SyncPolicy:
    """When a server flushes JetStream's files: always before the ack, or every `interval`."""

    always: bool
    interval: timedelta


def read_sync_policy(monitor_url: str, timeout: float = 2.0) -> SyncPolicy:
    """What the server at `monitor_url` (`http://host:port`) says of itself.

    Blocks for at most about `timeout` seconds. Raises NotDurableError when JetStream is off, and OSError
    when the monitoring port does not answer properly.
    """
    status, body = get(monitor_url, "/varz", timeout)
    if status != http.client.OK:
        raise OSError(f"{monitor_url}/varz answered {status}")
    config = json.loads(body).get("jetstream", {}).get("config")
    if not config:
        raise NotDurableError(f"the NATS server at {monitor_url} runs without JetStream")
    return SyncPolicy(
        always=config.get("sync_always", False) is True,
        interval=timedelta(microseconds=config.get("sync_interval", 0) // 1000),
    )


def sync_interval_is_always(monitor_url: str, timeout: float = 2.0) -> bool:
    """Whether the server flushes before each ack. Raises as `read_sync_policy` does."""
    return read_sync_policy(monitor_url, timeout).always


def require_sync_always(monitor_url: str, *, allow_loss: bool = False, timeout: float = 2.0) -> None:
    """Raise NotDurableError unless the server flushes before each ack, or `allow_loss` is set."""
    if allow_loss:
        return
    policy = read_sync_policy(monitor_url, timeout)
    if not policy.always:
        raise NotDurableError(
            f"the NATS server at {monitor_url} flushes every {policy.interval}: a power cut loses what it "
            "has acknowledged since; set `jetstream { sync_interval: always }`"
        )


def get(base_url: str, path: str, timeout: float) -> tuple[int, bytes]:
    """Status and body of a GET, past any proxy of the environment. Raises OSError."""
    address = urlsplit(base_url)
    connect = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = connect(address.hostname or "", address.port, timeout=timeout)
    try:
        connection.request("GET", address.path.rstrip("/") + path)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{base_url}{path}: {error!r}") from error
    finally:
        connection.close()
