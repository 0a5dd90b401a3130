"""A client for the control calls of a running double: for tests, fault runs and the demonstration."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from .faults import Kind

if TYPE_CHECKING:
    # For the type alone: the double's own process has no use for the library, which is slow to load.
    from stripe import StripeClient

_POLL_SECONDS = 0.005


class ControlClient:
    """Blocking calls to `/_double`; `httpx.HTTPStatusError` where the double refuses."""

    def __init__(self, address: str, key: str) -> None:
        """`key` is the `control_key` of the double's settings."""
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def state(self) -> dict[str, Any]:
        """Counts of objects, meter events, deliveries and calls, and the own clock's `now_ms`."""
        return self._call("GET", "/_double/state")

    def meter_events(self, customer: str | None = None) -> list[dict[str, Any]]:
        """Every accepted event in order of receipt, with its `status`."""
        query = {"customer": customer} if customer else {}
        found: list[dict[str, Any]] = self._call("GET", "/_double/meter_events", params=query)["data"]
        return found

    def add_fault(self, path_prefix: str, kind: Kind | str, **options: Any) -> dict[str, Any]:
        """Add a rule; options are `method`, `probability`, `next_n`, `seed` and `hold_seconds`."""
        rule = {"path_prefix": path_prefix, "kind": str(kind), **options}
        return self._call("POST", "/_double/faults", json=rule)

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, each with how often it `fired`."""
        found: list[dict[str, Any]] = self._call("GET", "/_double/faults")["data"]
        return found

    def clear_faults(self) -> None:
        self._call("DELETE", "/_double/faults")

    def freeze(self, at_ms: int) -> None:
        """Stop the double's own clock at this unix time in milliseconds."""
        self._call("POST", "/_double/clock", json={"frozen_ms": at_ms})

    def advance(self, by_ms: int) -> None:
        """Move the double's own clock."""
        self._call("POST", "/_double/clock", json={"advance_ms": by_ms})

    def follow_real_time(self) -> None:
        self._call("POST", "/_double/clock", json={"real_time": True})

    def reset(self) -> None:
        """Forget everything."""
        self._call("POST", "/_double/reset")

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._http.request(method, path, **options)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


def advance_test_clock(client: "StripeClient", clock: str, to: int, *, timeout: float = 30.0) -> None:
    """Move a test clock and wait until all that falls due on the way has happened.

    Works with Stripe itself too, in test mode. TimeoutError if the clock is not ready in time.
    """
    client.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": to})
    deadline = time.monotonic() + timeout
    while client.v1.test_helpers.test_clocks.retrieve(clock).status != "ready":
        if time.monotonic() > deadline:
            raise TimeoutError(f"test clock {clock} was still advancing after {timeout} s")
        time.sleep(_POLL_SECONDS)
