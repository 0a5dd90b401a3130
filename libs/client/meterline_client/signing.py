"""Calls of an untrusted client: signed, with a configuration that was issued for it."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

import uuid_utils
from meterline_protos.ingest.v1 import capture_pb2


@dataclass(frozen=True, slots=True)
class CaptureConfig:
    """What `IssueCaptureConfig` of identity answered.

    config: goes with every call as it is; says what may be reported, and until when
    client_secret: what calls are signed with; goes nowhere
    """

    config: bytes
    client_secret: bytes = field(repr=False)


# Answers the configuration of this moment; asked at every attempt, so that one that expires can be replaced.
CaptureConfigs = Callable[[], CaptureConfig]


def to_configs(given: CaptureConfig | CaptureConfigs, api_key: str | None) -> CaptureConfigs:
    """ValueError when there is a key as well: a call is either signed or brings one."""
    if api_key is not None:
        raise ValueError("capture_config: either this or api_key")
    return (lambda: given) if isinstance(given, CaptureConfig) else given


def signed(body: bytes, now_us: int, config: CaptureConfig) -> bytes:
    """A serialised `ReportSignedRequest` of a serialised `ReportRequest`.

    HMAC-SHA256 over the raw bytes `{id}.{timestamp_ms}.{body}`, see capture.proto.
    """
    name, timestamp_ms = str(uuid_utils.uuid7()), now_us // 1_000
    raw = f"{name}.{timestamp_ms}.".encode() + body
    return capture_pb2.ReportSignedRequest(
        config=config.config,
        id=name,
        timestamp_ms=timestamp_ms,
        body=body,
        signature=hmac.digest(config.client_secret, raw, "sha256"),
    ).SerializeToString()
