"""The broker's URL is parsed completely, and no error shows its password."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.bus.address import BrokerAddress
from meterline.config import ServiceSettings
from pydantic import ValidationError

pytestmark = pytest.mark.req("S8")

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("url", "server", "host", "port", "user"),
    [
        ("nats://127.0.0.1", "nats://127.0.0.1:4222", "127.0.0.1", 4222, ""),
        (
            "nats://ingest:hunter2@nats.test:4333",
            "nats://nats.test:4333",
            "nats.test",
            4333,
            "ingest",
        ),
        ("tls://ingest:hunter2@[::1]:7", "tls://[::1]:7", "::1", 7, "ingest"),
    ],
)
def test_url_is_parsed_into_its_parts(url: str, server: str, host: str, port: int, user: str) -> None:
    address = BrokerAddress.parse(url)
    assert (address.server, address.host, address.port, address.user) == (server, host, port, user)
    assert address.password == (PASSWORD if user else "")
    assert PASSWORD not in repr(address) + str(address)


@given(st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable()))
def test_any_password_round_trips(password: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in password.encode())
    assert BrokerAddress.parse(f"nats://u:{encoded}@h:1").password == password


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@h",
        "u:hunter2@h:4222",
        "nats://",
        "nats://hunter2@h",
        "nats://:hunter2@h",
        "nats://u:hunter2/x@h",
        "nats://u:hunter2@h:99999",
        "nats://u:hunter2@[h",
    ],
)
def test_invalid_address_is_refused_without_showing_the_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="nats_url") as refused:
        BrokerAddress.parse(url)
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://")
    monkeypatch.setenv("METERLINE_AUTHENTICATION", "off")
    monkeypatch.setenv("METERLINE_NATS_URL", url)
    with pytest.raises(ValidationError, match="nats_url") as invalid:
        ServiceSettings()  # type: ignore[call-arg]
    assert PASSWORD not in "".join(traceback.format_exception(invalid.value))
