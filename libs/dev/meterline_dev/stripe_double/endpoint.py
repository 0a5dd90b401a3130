"""One call from the wire to the handler and back: key, faults, idempotency, transaction, answer."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response

from . import errors, idempotency
from .core import Core
from .errors import ApiError
from .events import API_VERSION
from .expansion import expand
from .faults import FaultRule, Kind, refusal
from .ids import new_id
from .rendering import render
from .request import ApiRequest, ApiResponse
from .routes import Handler

KEY_PREFIXES = ("sk_test_", "rk_test_")


class Endpoint:
    """The HTTP side of one handler."""

    def __init__(self, core: Core, handler: Handler) -> None:
        self._core = core
        self._handler = handler

    async def call(self, http: Request) -> Response:
        core, request_id = self._core, new_id("req", 14)
        core.counters["requests"] += 1
        fault: FaultRule | None = None
        try:
            authenticate(http)
            fault = core.faults.pick(http.method, http.url.path)
            if fault and fault.kind is Kind.TIMEOUT_BEFORE:
                return await _cut_connection(http, fault.hold_seconds)
            if fault and (error := refusal(fault.kind)):
                raise error
            response = self._execute(await _read(http, request_id), fault)
        except ApiError as error:
            response = refused(error)
        if fault and fault.kind is Kind.TIMEOUT_AFTER_ACCEPT:
            return await _cut_connection(http, fault.hold_seconds)
        return answer(response, request_id)

    def _execute(self, request: ApiRequest, fault: FaultRule | None) -> ApiResponse:
        """Replay or run, in one transaction with the memory of the answer."""
        with self._core.store.transaction():
            known = idempotency.replay(self._core, request)
            if known is not None:
                return known
            try:
                with self._core.store.transaction():
                    response = self._handle(request, fault)
            except ApiError as error:
                if not error.saved:
                    raise
                response = refused(error)
            if fault and fault.kind is Kind.DUPLICATE_400 and response.status == 200:
                # The effect is kept, as if an earlier copy of this call had been accepted.
                response = refused(errors.duplicate_event(str(response.body.get("identifier"))))
            idempotency.remember(self._core, request, response)
            return response

    def _handle(self, request: ApiRequest, fault: FaultRule | None) -> ApiResponse:
        if fault and fault.kind is Kind.ERROR_500_SAVED:
            raise errors.server_error(saved=True)
        body = render(self._core, self._handler(self._core, request), created=request.method == "POST")
        return ApiResponse(200, expand(self._core, body, request.expand, render))


def authenticate(http: Request) -> None:
    """Only test keys: secret or restricted. 401 otherwise."""
    scheme, _, key = http.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise errors.unauthorized("No API key: send it as 'Authorization: Bearer sk_test_...'.")
    if not key.startswith(KEY_PREFIXES):
        raise errors.unauthorized("Invalid API key: the double takes sk_test_ and rk_test_ keys only.")


def unrecognized(_: Core, request: ApiRequest) -> dict[str, object]:
    """The handler of every path that the double does not have."""
    message = f"Unrecognized request URL ({request.method}: {request.path})."
    raise ApiError(message, status=404)


def answer(response: ApiResponse, request_id: str) -> Response:
    headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION, **response.headers}
    text = json.dumps(response.body)
    return Response(text, response.status, headers, media_type="application/json")


def refused(error: ApiError) -> ApiResponse:
    return ApiResponse(error.status, error.envelope(), error.headers())


async def _read(http: Request, request_id: str) -> ApiRequest:
    text = (await http.body()).decode("utf-8", "replace") if http.method == "POST" else http.url.query
    return ApiRequest(
        method=http.method,
        path=http.url.path,
        ids=http.path_params,
        text=text,
        request_id=request_id,
        idempotency_key=http.headers.get("idempotency-key") if http.method == "POST" else None,
    )


async def _cut_connection(http: Request, hold_seconds: float) -> Response:
    """Keep the caller waiting, then cut the connection without an answer."""
    await http.body()
    with suppress(TimeoutError):
        async with asyncio.timeout(hold_seconds):
            await _disconnected(http)
    abort: Callable[[], None] = http.state.abort
    abort()
    await _disconnected(http)
    return Response()


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        continue
