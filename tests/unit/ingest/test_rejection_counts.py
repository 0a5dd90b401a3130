"""Rejected events are counted in metrics and logs, with bounded labels and log lines."""

from __future__ import annotations

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from meterline.telemetry import metrics
from meterline_ingest.capture.rejection_counts import MAX_LABELS, OTHER, Refusal, RejectionCounts
from meterline_ingest.capture.rules.rejected import cut
from meterline_ingest.event.bounds import MAX_EVENT_ID
from prometheus_client import Counter

pytestmark = pytest.mark.req("O10")


def labels_of(metric: Counter) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


@pytest.fixture(autouse=True)
def fresh_metrics() -> None:
    metrics.QUARANTINED.clear()
    metrics.QUARANTINE_REFUSED.clear()


def test_failures_are_counted_by_tenant_source_and_reason() -> None:
    failures = RejectionCounts()
    failures.kept([("acme", "a", "ID_MISSING")] * 3 + [("acme", "b", "ID_MISSING")])
    failures.kept([("acme", "a", "ID_MISSING")])
    assert labels_of(metrics.QUARANTINED) == {
        ("acme", "a", "ID_MISSING"): 4,
        ("acme", "b", "ID_MISSING"): 1,
    }


def test_sources_beyond_the_bound_share_a_label() -> None:
    failures = RejectionCounts()
    for number in range(MAX_LABELS + 50):
        failures.kept([("acme", f"source-{number}", "ID_MISSING")])
    failures.refused(Refusal.FULL, [("bolt", "late", "TIME_MISSING")])
    kept = labels_of(metrics.QUARANTINED)
    assert len(kept) == MAX_LABELS + 1
    assert kept[OTHER, OTHER, "ID_MISSING"] == 50
    assert labels_of(metrics.QUARANTINE_REFUSED) == {(OTHER, OTHER, "TIME_MISSING"): 1}


def test_flood_of_refusals_logs_one_line_a_minute_with_the_count() -> None:
    now = 0.0
    failures = RejectionCounts(timer=lambda: now)
    one = [("acme", "a", "ID_MISSING")]
    with structlog.testing.capture_logs() as lines:
        for second in range(125):
            now = float(second)
            failures.refused(Refusal.FULL, one)
        failures.refused(Refusal.NO_KEY, one)
    assert [(line["why"], line["events"]) for line in lines] == [
        (str(Refusal.FULL), 1),
        (str(Refusal.FULL), 60),
        (str(Refusal.FULL), 60),
        (str(Refusal.NO_KEY), 1),
    ]
    assert labels_of(metrics.QUARANTINE_REFUSED) == {("acme", "a", "ID_MISSING"): 126}


@given(st.text(max_size=300))
def test_stored_text_is_truncated_to_its_column(text: str) -> None:
    stored = cut(text, MAX_EVENT_ID)
    assert "\0" not in stored
    assert len(stored) == min(len(text), MAX_EVENT_ID)
