"""Ingest requires valid master keys and never shows them."""

from __future__ import annotations

import base64

import pytest
from meterline.config import load
from meterline_ingest.settings import IngestSettings
from pydantic import ValidationError

pytestmark = pytest.mark.req("T4.3", "S8")

SECRET = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def others_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METERLINE_SECRETS_DIR", raising=False)
    monkeypatch.delenv("METERLINE_MASTER_KEYS", raising=False)
    monkeypatch.setenv("METERLINE_DATABASE_URL", "postgresql://")
    monkeypatch.setenv("METERLINE_IDENTITY_ADDRESS", "127.0.0.1:1")


def test_master_keys_are_read_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METERLINE_MASTER_KEYS", f"a:{SECRET}")
    monkeypatch.setenv("METERLINE_AUTHENTICATION", "off")
    settings = load(IngestSettings)
    assert settings.master_keys.get_secret_value() == f"a:{SECRET}"
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_missing_master_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="master_keys"):
        load(IngestSettings)


@pytest.mark.parametrize("text", [SECRET, f"a:{SECRET[:-4]}", f"a:{SECRET},a:{SECRET}", f"a b:{SECRET}"])
def test_invalid_master_keys_are_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("METERLINE_MASTER_KEYS", text)
    with pytest.raises(ValidationError, match="master_keys") as caught:
        load(IngestSettings)
    assert SECRET[:8] not in str(caught.value)
