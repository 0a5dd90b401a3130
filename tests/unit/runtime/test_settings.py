"""Settings are read from the environment or from secret files, and secrets are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from meterline.bus.subjects import STREAM_MAX_AGE
from meterline.config import ServiceSettings, load
from meterline.consuming.breaker import BurialRules
from pydantic import ValidationError

pytestmark = pytest.mark.req("S8")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METERLINE_DATABASE_URL", raising=False)
    monkeypatch.delenv("METERLINE_SECRETS_DIR", raising=False)
    monkeypatch.setenv("METERLINE_AUTHENTICATION", "off")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://from-the-environment")
    monkeypatch.setenv("METERLINE_GRPC_PORT", "7001")
    settings = load(ServiceSettings)
    assert settings.database_url.get_secret_value() == "postgresql://from-the-environment"
    assert settings.grpc_port == 7001


def test_secret_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meterline_database_url").write_text("postgresql://from-a-file\n")
    monkeypatch.setenv("METERLINE_SECRETS_DIR", str(tmp_path))
    assert load(ServiceSettings).database_url.get_secret_value() == "postgresql://from-a-file"


def test_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://user:hunter2@host/db")
    settings = load(ServiceSettings)
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_missing_or_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="database_url"):
        load(ServiceSettings)
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://")
    monkeypatch.setenv("METERLINE_GRPC_PORT", "65536")
    with pytest.raises(ValidationError, match="grpc_port"):
        load(ServiceSettings)


@pytest.mark.req("O2")
def test_consumer_settings_override_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://")
    assert load(ServiceSettings).burial_rules == BurialRules()
    monkeypatch.setenv("METERLINE_ACK_WAIT_SECONDS", "7")
    names = ("MESSAGE_PATIENCE_SECONDS", "BREAKER_WINDOW", "BREAKER_PERCENT")
    cooldowns = ("BREAKER_COOLDOWN_SECONDS", "BREAKER_LONGEST_COOLDOWN_SECONDS")
    for number, name in enumerate((*names, *cooldowns), 1):
        monkeypatch.setenv(f"METERLINE_{name}", str(number))
    rules = BurialRules(1.0, 2, 3, 4.0, 5.0)
    settings = load(ServiceSettings)
    assert (settings.ack_wait_seconds, settings.burial_rules) == (7.0, rules)


@pytest.mark.req("O2")
def test_patience_must_be_shorter_than_the_stream_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://")
    monkeypatch.setenv("METERLINE_MESSAGE_PATIENCE_SECONDS", str(STREAM_MAX_AGE.total_seconds()))
    with pytest.raises(ValidationError, match="message_patience_seconds"):
        load(ServiceSettings)
