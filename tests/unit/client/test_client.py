"""The client checks its arguments, and starts nothing before its first event."""

import threading
from typing import Any

import pytest
from meterline_client import BreakerState, Client, Stats, Tuning

NOWHERE = "127.0.0.1:1"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "meterline-client"]


@pytest.mark.req("T1.1")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": ""}, ValueError, "source: needed"),
        ({"source": None}, TypeError, "source: must be a string"),
        ({"source": "x" * 129}, ValueError, "source: must have at most 128"),
        ({"tenant_id": "No Slug"}, ValueError, "tenant_id: must be 1 to 63"),
        ({"batch_events": 0}, ValueError, "batch_events: must be 1 to 10000"),
        ({"batch_events": 10_001}, ValueError, "batch_events: must be 1 to 10000"),
        ({"max_buffer_events": 4_999}, ValueError, "max_buffer_events: must not be less"),
        ({"flush_interval": -1}, ValueError, "flush_interval: must not be negative"),
        ({"flush_interval": float("nan")}, ValueError, "flush_interval: must not be negative"),
        ({"api_key": ""}, ValueError, "api_key: must be a key as it was made$"),
        ({"api_key": "mlk_hidden\n"}, ValueError, "api_key: must be a key as it was made$"),
        ({"api_key": "mlk hidden"}, ValueError, "api_key: must be a key as it was made$"),
        ({"api_key": "mlk_hiddén"}, ValueError, "api_key: must be a key as it was made$"),
    ],
)
def test_invalid_arguments_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        Client(NOWHERE, **{"source": "test/1"} | options)


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("name", ["max_in_flight", "call_timeout", "max_spool_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: must be above zero"):
        Tuning(**{name: value})  # type: ignore[arg-type]


@pytest.mark.req("S11", "T7.1")
def test_client_starts_with_the_first_event() -> None:
    before = threads()
    with Client(NOWHERE, source="test/1", tenant_id="acme") as client:
        assert threads() == before
        client.record("api.called")
        assert len(threads()) == len(before) + 1
        client.close(timeout=0.01)
    assert threads() == before


@pytest.mark.req("T7.1")
def test_unused_client_flushes_and_closes_immediately() -> None:
    client = Client(NOWHERE, source="test/1")

    assert client.close()
    assert client.close()
    assert client.flush()
    zero: dict[str, Any] = dict.fromkeys(Stats.__slots__, 0)
    assert client.stats == Stats(**zero | {"breaker": BreakerState.CLOSED})


@pytest.mark.req("T1.1", "T7.1")
def test_misuse_raises_and_records_nothing() -> None:
    client = Client(NOWHERE, source="test/1", tenant_id="acme")

    with pytest.raises(TypeError, match=r"^quantities\.miles: must be int or decimal\.Decimal, not float"):
        client.record("flight.departed", quantities={"miles": 1.5})  # type: ignore[dict-item]
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.record("flight.departed")
    assert client.stats.recorded == 0
