"""Alert rules use existing metrics and refer to a runbook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.test_metrics import METRICS
from tests.architecture.tree import ROOT, name_of

pytestmark = pytest.mark.req("X2")

_METRIC = re.compile(r"\bmeterline_[a-z_]+")
_EXPRESSION = re.compile(r"^ +expr: (.+)$", re.MULTILINE)
_ALERT = re.compile(r"^ +- alert: (\w+)$", re.MULTILINE)
_RUNBOOK = re.compile(r"^ +runbook: (\S+)$", re.MULTILINE)


def rules() -> list[Path]:
    return sorted((ROOT / "deploy" / "alerts").glob("*.yaml"))


def test_alert_rules_exist() -> None:
    assert rules()


@pytest.mark.parametrize("path", rules(), ids=name_of)
def test_alerts_use_existing_metrics(path: Path) -> None:
    expressions = _EXPRESSION.findall(path.read_text(encoding="utf-8"))
    asked = {metric for expression in expressions for metric in _METRIC.findall(expression)}
    known = {sample.name for metric in METRICS.values() for sample in metric.describe()}
    assert asked
    assert asked - known == set()


@pytest.mark.parametrize("path", rules(), ids=name_of)
def test_every_alert_has_a_runbook_section(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    alerts, runbooks = _ALERT.findall(text), _RUNBOOK.findall(text)
    assert len(alerts) == len(runbooks)
    missing = [
        alert
        for alert, runbook in zip(alerts, runbooks, strict=True)
        if f"`{alert}`" not in (ROOT / runbook).read_text(encoding="utf-8")
    ]
    assert missing == []
