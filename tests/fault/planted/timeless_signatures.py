"""Ingest whose signatures leave out the time: a call that was overheard can be sent again for ever."""

from __future__ import annotations

from meterline_ingest.capture.rules import signatures
from meterline_ingest.main import main

_signature = signatures.signature


def _without_time(client_secret: bytes, id: str, timestamp_ms: int, body: bytes) -> bytes:
    return _signature(client_secret, id, 0, body)


if __name__ == "__main__":
    signatures.signature = _without_time
    main()
