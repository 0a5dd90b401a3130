"""Dimensions and properties are validated and enriched once for each combination of values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.parse.rows import RowReader
from meterline_ingest.capture.rules.validation import Check
from meterline_ingest.event_types.rules.enrichment import UNENRICHED, Entry, EntryKey, WhenMissing, enrich

from tests.support.capture import Sample, rows
from tests.unit.ingest.registered import CATALOGUE, LIMITS, NOW_US, TENANTS, TYPES

pytestmark = pytest.mark.req("O2")

RICH = TYPES.common["rich"]
samples = st.builds(
    Sample,
    type=st.sampled_from(["plain", "rich"]),
    time_us=st.just(NOW_US),
    dimensions=st.dictionaries(st.sampled_from(["region", "category"]), st.sampled_from("ab"), max_size=2),
    properties=st.dictionaries(
        st.sampled_from(["product", "title", "age"]), st.sampled_from(["p1", "p2", "p3", "7"]), max_size=3
    ),
    tenant_id=st.sampled_from(["acme", "bolt"]),
)


def checked(batch: list[Sample]) -> Check:
    reader = RowReader(frozenset())
    parsed = wire.ReportRequest.FromString(rows(*batch).SerializeToString())
    reader.add(parsed.rows.events, "acme", "test")
    return Check(reader.finish(), TENANTS, TYPES)


@given(st.lists(samples, min_size=1, max_size=20))
@settings(deadline=None)
def test_batch_is_validated_like_single_events(batch: list[Sample]) -> None:
    together = checked(batch).verdict(LIMITS, NOW_US, CATALOGUE)
    for row, sample in enumerate(batch):
        alone = checked([sample]).verdict(LIMITS, NOW_US, CATALOGUE)
        assert together.problems.by_row.get(row) == alone.problems.by_row.get(0)
        assert together.series[together.series_index[row]] == alone.series[alone.series_index[0]]
        mine = together.fields.variants.get(int(together.fields.index[row]))
        assert mine == alone.fields.variants.get(int(alone.fields.index[0]))
        assert (mine is not None) is (sample.type == "rich")


def test_batch_lists_the_catalogue_entries_it_needs() -> None:
    batch = [
        Sample(type="rich", dimensions={}, properties={"product": "p1"}),
        Sample(type="rich", dimensions={}, properties={"product": "p9"}, tenant_id="bolt"),
        Sample(type="rich", dimensions={}),
        Sample(type="plain"),
    ]
    assert checked(batch).entries_needed() == {
        EntryKey(1, "products", "p1"),
        EntryKey(2, "products", "p9"),
    }


def test_event_is_enriched_from_its_catalogue_entry() -> None:
    verdict = checked(
        [Sample(type="rich", dimensions={"region": "eu"}, properties={"product": "p1"}, time_us=NOW_US)]
    ).verdict(LIMITS, NOW_US, CATALOGUE)
    assert verdict.problems.by_row == {}
    assert verdict.series[0].dimensions == (("category", "shoes"), ("region", "eu"))
    (variant,) = verdict.fields.variants.values()
    assert variant.properties == {"product": "p1", "title": "Boot"}
    assert variant.sent_properties == (("product", "p1"),)
    assert variant.sources == ["products/p1@3"]


def test_enriched_values_are_validated() -> None:
    verdict = checked(
        [Sample(type="rich", dimensions={}, properties={"product": "p2"}, time_us=NOW_US)]
    ).verdict(LIMITS, NOW_US, CATALOGUE)
    problem = verdict.problems.by_row[0]
    assert (problem.reason, problem.field) == ("PROPERTY_TOO_LONG", "properties.title")


def test_missing_entry_is_handled_by_the_policy() -> None:
    (rule,) = RICH.enrichments
    refused = enrich(1, [rule], {"product": "p3"}, {})
    assert refused.missing == rule
    assert enrich(1, [rule], {}, {}).missing is None

    tolerant = replace(rule, when_missing=WhenMissing.ACCEPT)
    accepted = enrich(1, [tolerant], {"product": "p3"}, {})
    assert (accepted.missing, accepted.flags, accepted.added) == (None, (UNENRICHED,), {})


def test_enrichment_rules_do_not_see_each_others_values() -> None:
    (rule,) = RICH.enrichments
    chained = enrich(
        1,
        [rule, rule],
        {"product": "p1"},
        {EntryKey(1, "products", "p1"): Entry(1, {"category": "c"})},
    )
    assert chained.added == {"category": "c"}
