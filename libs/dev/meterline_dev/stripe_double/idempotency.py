"""What is remembered under an Idempotency-Key.

A key remembers the first answer for 24 hours on the double's own clock, and returns it word for word to
the same request; with other parameters the key is refused. Answers that came before an endpoint began to
work (`ApiError.saved` is false) are not remembered, so such a call can be repeated under its key.
"""

import hashlib
import json

from .core import Core
from .errors import idempotency_mismatch, invalid_parameter
from .request import ApiRequest, ApiResponse

MEMORY_MS = 24 * 3600 * 1_000
MAX_KEY = 255


def fingerprint(request: ApiRequest) -> bytes:
    """A digest of endpoint and parameters, indifferent to the order of the parameters."""
    text = json.dumps([request.method, request.path, request.form], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def replay(core: Core, request: ApiRequest) -> ApiResponse | None:
    """The remembered answer; 400 `idempotency_error` if the key belongs to another request."""
    key = request.idempotency_key
    if key is None:
        return None
    if len(key) > MAX_KEY:
        raise invalid_parameter("Idempotency-Key", f"Idempotency keys have at most {MAX_KEY} characters.")
    row = core.store.row(
        "SELECT fingerprint, request_id, status, body FROM idempotency WHERE key = ? AND received_ms > ?",
        key,
        core.clock.now_ms() - MEMORY_MS,
    )
    if row is None:
        return None
    known, request_id, status, body = row
    if known != fingerprint(request):
        raise idempotency_mismatch(key)
    core.counters["idempotent_replays"] += 1
    headers = {"Idempotent-Replayed": "true", "Original-Request": request_id}
    if status >= 400:
        headers["Stripe-Should-Retry"] = "false"
    return ApiResponse(status, json.loads(body), headers)


def remember(core: Core, request: ApiRequest, response: ApiResponse) -> None:
    """Keep this answer under the request's key; call it in the transaction of the effect itself."""
    if request.idempotency_key is None:
        return
    core.store.execute(
        "INSERT OR REPLACE INTO idempotency (key, fingerprint, received_ms, request_id, status, body)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        request.idempotency_key,
        fingerprint(request),
        core.clock.now_ms(),
        request.request_id,
        response.status,
        json.dumps(response.body),
    )
