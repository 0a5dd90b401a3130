"""The double's control calls, under `/_double`, and `/healthz`: JSON, for tests and demonstrations only.

Control calls move clocks and delete everything, so they require a separate key, which other users of the
machine do not have.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .core import Core
from .faults import FaultRule, Kind

EVENT_PATH = "/v1/billing/meter_events"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


_SpecT = TypeVar("_SpecT", bound=_Body)


class FaultSpec(_Body):
    """A fault rule; without `next_n` and `probability` it applies to every matching call."""

    path_prefix: Annotated[str, Field(pattern="^/")]
    kind: Kind
    method: Annotated[str, Field(pattern="^(GET|POST|DELETE)$")] | None = None
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    next_n: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    hold_seconds: Annotated[float, Field(ge=0, le=120)] = 0.0

    @model_validator(mode="after")
    def _duplicates_are_about_events(self) -> Self:
        if self.kind is Kind.DUPLICATE_400 and self.path_prefix != EVENT_PATH:
            raise ValueError(f"duplicate_400 needs the path_prefix {EVENT_PATH}")
        return self


class ClockSpec(_Body):
    """One of: stop at `frozen_ms`, advance by `advance_ms`, or follow `real_time` again."""

    frozen_ms: Annotated[int, Field(ge=0)] | None = None
    advance_ms: int | None = None
    real_time: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = (self.frozen_ms is not None, self.advance_ms is not None, self.real_time)
        if sum(given) != 1:
            raise ValueError("give one of frozen_ms, advance_ms and real_time")
        return self


class Control:
    """Handlers of the control routes. `failed` names a background task that has died, if any has."""

    def __init__(self, core: Core, failed: Callable[[], str | None]) -> None:
        self._core = core
        self._failed = failed

    def routes(self) -> list[Route]:
        table: Mapping[tuple[str, str], Callable[[Request], Awaitable[Response]]] = {
            ("GET", "/_double/state"): self._state,
            ("GET", "/_double/meter_events"): self._meter_events,
            ("POST", "/_double/reset"): self._reset,
            ("GET", "/_double/clock"): self._clock,
            ("POST", "/_double/clock"): self._set_clock,
            ("GET", "/_double/faults"): self._faults,
            ("POST", "/_double/faults"): self._add_fault,
            ("DELETE", "/_double/faults"): self._clear_faults,
        }
        controls = [
            Route(path, self._guarded(handler), methods=[method]) for (method, path), handler in table.items()
        ]
        return [Route("/healthz", self._health, methods=["GET"]), *controls]

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[..., Awaitable[Response]]:
        expected = f"Bearer {self._core.settings.control_key}".encode()

        async def guarded(http: Request) -> Response:
            given = http.headers.get("authorization", "").encode()
            # A double without a key refuses all control calls.
            if not (self._core.settings.control_key and hmac.compare_digest(given, expected)):
                message = (
                    "Control calls need 'Authorization: Bearer <the key that the double was started with>'."
                )
                return JSONResponse({"error": {"message": message}}, 401)
            return await handler(http)

        return guarded

    async def _health(self, _: Request) -> Response:
        failed = self._failed()
        status = {"status": "ok"} if failed is None else {"status": "failing", "task": failed}
        return JSONResponse(status, 200 if failed is None else 503)

    async def _state(self, _: Request) -> Response:
        """Counts: of objects by kind and status, meter events and deliveries by state, and calls."""
        store = self._core.store
        objects: dict[str, dict[str, int]] = {}
        for kind, status, count in store.execute(
            "SELECT kind, coalesce(status, ''), count(*) FROM objects GROUP BY 1, 2"
        ):
            objects.setdefault(kind, {})[status] = count
        return JSONResponse(
            {
                "objects": objects,
                "meter_events": dict(
                    store.execute("SELECT status, count(*) FROM meter_events GROUP BY 1").fetchall()
                ),
                "deliveries": dict(
                    store.execute("SELECT state, count(*) FROM deliveries GROUP BY 1").fetchall()
                ),
                "counters": dict(self._core.counters),
                "now_ms": self._core.clock.now_ms(),
            }
        )

    async def _meter_events(self, http: Request) -> Response:
        """Every event ever accepted, in order of receipt, with what became of it."""
        customer = http.query_params.get("customer")
        columns = (
            "identifier", "event_name", "meter", "customer", "value", "timestamp", "created",
            "received_ms", "payload", "idempotency_key", "status", "error_code",
        )  # fmt: skip
        rows = self._core.store.execute(
            "SELECT identifier, event_name, meter, customer, value, at, created, received_ms, payload,"
            " idempotency_key, status, error_code FROM meter_events WHERE ? IS NULL OR customer = ?"
            " ORDER BY seq",
            customer,
            customer,
        )
        data = [dict(zip(columns, row, strict=True)) for row in rows]
        for event in data:
            event["payload"] = json.loads(event["payload"])
        return JSONResponse({"data": data})

    async def _reset(self, _: Request) -> Response:
        """Forget everything: objects, events, keys, faults, counts, the shift of the clock."""
        core = self._core
        core.store.reset()
        core.faults.clear()
        core.counters.clear()
        core.clock.follow_real_time()
        return JSONResponse({"reset": True})

    async def _clock(self, _: Request) -> Response:
        return JSONResponse({"now_ms": self._core.clock.now_ms(), "frozen": self._core.clock.frozen})

    async def _set_clock(self, http: Request) -> Response:
        spec = await _parsed(http, ClockSpec)
        if isinstance(spec, Response):
            return spec
        clock = self._core.clock
        if spec.frozen_ms is not None:
            clock.freeze(spec.frozen_ms)
        elif spec.advance_ms is not None:
            clock.advance(spec.advance_ms)
        else:
            clock.follow_real_time()
        self._core.wake_timeline.set()
        return await self._clock(http)

    async def _faults(self, _: Request) -> Response:
        return JSONResponse({"data": [_shown(rule) for rule in self._core.faults]})

    async def _add_fault(self, http: Request) -> Response:
        spec = await _parsed(http, FaultSpec)
        if isinstance(spec, Response):
            return spec
        rule = FaultRule(**spec.model_dump())
        self._core.faults.add(rule)
        return JSONResponse(_shown(rule), 201)

    async def _clear_faults(self, _: Request) -> Response:
        self._core.faults.clear()
        return JSONResponse({"data": []})


async def _parsed(http: Request, model: type[_SpecT]) -> _SpecT | Response:
    try:
        return model.model_validate_json(await http.body())
    except ValidationError as error:
        problems = json.loads(error.json(include_url=False, include_context=False, include_input=False))
        return JSONResponse({"error": {"message": "Invalid body.", "problems": problems}}, 400)


def _shown(rule: FaultRule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "path_prefix": rule.path_prefix,
        "method": rule.method,
        "kind": rule.kind,
        "probability": rule.probability,
        "next_n": rule.next_n,
        "seed": rule.seed,
        "hold_seconds": rule.hold_seconds,
        "fired": rule.fired,
    }
