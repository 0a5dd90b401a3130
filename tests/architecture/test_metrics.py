"""Metrics are one closed list: all of them in one file, each of them used, none of them elsewhere."""

from __future__ import annotations

import ast

import pytest
from meterline.telemetry import metrics
from prometheus_client import Counter, Gauge, Histogram

from tests.architecture.tree import ROOT, imported, name_of, names, parsed, sources

pytestmark = pytest.mark.req("X2", "T2.3")

LIST = ROOT / "libs/runtime/meterline/telemetry/metrics.py"
# Serves the list to Prometheus, and adds nothing to it.
EXPORTER = ROOT / "libs/runtime/meterline/service/run.py"
METRICS = {
    name: value for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)
}


def test_metrics_are_made_in_one_file_only() -> None:
    makers = {path for path in sources("libs", "services") if "prometheus_client" in imported(path)}
    assert makers == {LIST, EXPORTER}


def test_the_exporter_adds_nothing() -> None:
    made = [
        alias.name
        for node in ast.walk(parsed(EXPORTER))
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for alias in node.names
    ]
    assert made == ["start_http_server"]


def test_names_carry_the_project_and_the_unit() -> None:
    for metric in METRICS.values():
        (sample,) = metric.describe()
        assert sample.name.startswith("meterline_")
        assert sample.documentation
        if isinstance(metric, Histogram):
            assert sample.name.endswith("_seconds")


def test_every_metric_is_used() -> None:
    """A metric that nothing sets reads zero for ever, which an alert takes for good news."""
    used = {name for path in sources("libs", "services") if path != LIST for name in names(path)}
    assert sorted(set(METRICS) - used) == []


def test_metrics_that_are_used_exist() -> None:
    unknown = [
        f"{name_of(path)}:{node.lineno}: {node.attr}"
        for path in sources("libs", "services")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "metrics"
        and not hasattr(metrics, node.attr)
    ]
    assert unknown == []
