"""Startup refuses a retention that could delete uncounted events, or events that are still accepted."""

from __future__ import annotations

from typing import Any

import pytest
from meterline_ingest.settings import IngestSettings
from pydantic import SecretStr, ValidationError

from tests.support.services import MASTER_KEYS

pytestmark = pytest.mark.req("S7")

USUAL: dict[str, Any] = {
    "database_url": SecretStr("postgresql:///x"),
    "authentication": "off",
    "identity_address": "identity:7000",
    "master_keys": SecretStr(MASTER_KEYS),
}


@pytest.mark.parametrize("days", [0, 62, 400])
def test_valid_retention_is_accepted(days: int) -> None:
    settings = IngestSettings(**USUAL, aggregate_address="aggregate:7000", raw_event_retention_days=days)
    assert settings.raw_event_retention_days == days


@pytest.mark.parametrize(
    "more",
    [
        {"raw_event_retention_days": 61, "aggregate_address": "aggregate:7000"},
        {"raw_event_retention_days": -1, "aggregate_address": "aggregate:7000"},
        {"raw_event_retention_days": 62},
        {"raw_event_retention_days": 62, "aggregate_address": "aggregate:7000", "max_event_age_days": 63},
    ],
    ids=["too short", "negative", "no aggregate address", "shorter than the age of events"],
)
def test_invalid_retention_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IngestSettings(**USUAL, **more)
