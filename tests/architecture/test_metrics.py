"""All metrics are defined in one file, and each of them is used."""

from __future__ import annotations

import ast

import pytest
from meterline.telemetry import metrics
from prometheus_client import Counter, Gauge, Histogram

from tests.architecture.tree import ROOT, imported, name_of, names, parsed, sources

pytestmark = pytest.mark.req("X2", "T2.3")

LIST = ROOT / "libs/runtime/meterline/telemetry/metrics.py"
# The exporter serves the metrics to Prometheus and adds none.
EXPORTER = ROOT / "libs/runtime/meterline/service/run.py"
METRICS = {
    name: value for name, value in vars(metrics).items() if isinstance(value, Counter | Gauge | Histogram)
}


def test_metrics_are_defined_in_one_file() -> None:
    makers = {path for path in sources("libs", "services") if "prometheus_client" in imported(path)}
    assert makers == {LIST, EXPORTER}


def test_exporter_adds_no_metrics() -> None:
    made = [
        alias.name
        for node in ast.walk(parsed(EXPORTER))
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for alias in node.names
    ]
    assert made == ["start_http_server"]


def test_metric_names_have_project_prefix_and_unit() -> None:
    for metric in METRICS.values():
        (sample,) = metric.describe()
        assert sample.name.startswith("meterline_")
        assert sample.documentation
        if isinstance(metric, Histogram):
            assert sample.name.endswith("_seconds")


def test_every_metric_is_used() -> None:
    """A metric that nothing sets stays zero, so its alert could never fire."""
    used = {name for path in sources("libs", "services") if path != LIST for name in names(path)}
    assert sorted(set(METRICS) - used) == []


def test_used_metrics_exist() -> None:
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
