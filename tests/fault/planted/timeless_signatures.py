"""Ingest whose signatures do not cover the time: an intercepted call can be replayed forever."""

from __future__ import annotations

from meterline_ingest.capture.rules import signatures
from meterline_ingest.main import main

_signature = signatures.signature


def _without_time(client_secret: bytes, id: str, timestamp_ms: int, body: bytes) -> bytes:
    return _signature(client_secret, id, 0, body)


if __name__ == "__main__":
    signatures.signature = _without_time
    main()
