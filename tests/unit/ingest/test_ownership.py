"""A caller of one tenant cannot report for another: the check of dictionaries against a check of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_ingest.capture.rules.ownership import Share, flag_foreign, named
from meterline_ingest.capture.rules.validation import Check
from meterline_ingest.event.bounds import TimeLimits
from meterline_ingest.event.columns import UUID_DTYPE, Columns, concatenate
from meterline_ingest.event.outcomes import Kind, Problem
from meterline_ingest.event.problems import Problems
from meterline_ingest.event_types.rules.book import TypeBook

pytestmark = pytest.mark.req("T4.1")

names = st.sampled_from(["", "acme", "bolt", "cobra"])
# A call: its caller's tenant, and the tenant of each row.
calls = st.lists(st.tuples(st.none() | names, st.lists(names, max_size=6)), min_size=1, max_size=6)


def columns_of(tenants: Sequence[str]) -> Columns:
    entries = list(dict.fromkeys(tenants))
    size = len(tenants)
    zeros = np.zeros(size, np.uint32)
    index = np.array([entries.index(tenant) for tenant in tenants], np.uint32)
    ids = np.zeros(size, UUID_DTYPE)
    return Columns(
        entries,
        index,
        ["t"],
        zeros,
        ["s"],
        zeros,
        [()],
        zeros,
        [()],
        zeros,
        ids,
        None,
        np.zeros(size, np.int64),
        [],
    )


def flagged(columns: Columns, shares: Sequence[Share]) -> set[int]:
    problems = Problems(len(columns))
    flag_foreign(columns, shares, problems)
    assert {problem.reason for problem in problems.by_row.values()} <= {"TENANT_FORBIDDEN"}
    return set(problems.by_row)


@given(calls, st.booleans())
def test_rows_of_other_tenants_are_flagged_in_shared_flushes(
    brought: list[tuple[str | None, list[str]]], merged: bool
) -> None:
    """`merged`: one dictionary for all calls, as with rows; else one for each call, as with columns."""
    rows = [(caller, tenant) for caller, tenants in brought for tenant in tenants]
    shares = [Share(len(tenants), caller) for caller, tenants in brought]
    if merged:
        columns = columns_of([tenant for _, tenant in rows])
    else:
        columns = concatenate([columns_of(tenants) for _, tenants in brought], frozenset())
    expected = {at for at, (caller, tenant) in enumerate(rows) if caller is not None and caller != tenant}
    assert flagged(columns, shares) == expected


def test_foreign_tenant_is_refused_without_revealing_its_existence() -> None:
    columns = columns_of(["acme", "bolt", "nobody"])
    book, limits, problems = TypeBook({}), TimeLimits(1, 1), Problems(3)
    flag_foreign(columns, [Share(3, "acme")], problems)
    checked = Check(columns, {"acme": 1, "bolt": None}, book, problems).verdict(limits, 0)
    reasons = [checked.problems.by_row[row].reason for row in range(3)]
    assert reasons == ["UNKNOWN_EVENT_TYPE", "TENANT_FORBIDDEN", "TENANT_FORBIDDEN"]


@given(calls, st.sets(st.integers(0, 40)))
def test_only_permitted_tenants_are_looked_up(
    brought: list[tuple[str | None, list[str]]], bad: set[int]
) -> None:
    """Invalid rows of the caller's tenant go to its quarantine; rows of other tenants go to none."""
    columns = concatenate([columns_of(tenants) for _, tenants in brought], frozenset())
    problems = Problems(len(columns))
    problems.flag([row for row in bad if row < len(columns)], Problem(Kind.REJECTED, "ID_MISSING", "id", ""))
    flag_foreign(columns, [Share(len(tenants), caller) for caller, tenants in brought], problems)
    allowed = {each for caller, tenants in brought for each in tenants if caller in (None, each)}
    callers = [caller for caller, tenants in brought for _ in tenants]
    rows = [each for _, tenants in brought for each in tenants]
    foreign = {at for at, caller in enumerate(callers) if caller not in (None, rows[at])}
    assert {row for row, each in problems.by_row.items() if each.reason == "TENANT_FORBIDDEN"} == foreign
    # With a single name the rows need not be checked.
    assert set(named(columns, problems)) == (allowed if len(columns.tenants) > 1 else set(columns.tenants))


def test_unbound_caller_needs_no_check() -> None:
    assert flagged(columns_of(["acme", "bolt"]), [Share(1, None), Share(1, None)]) == set()
    assert flagged(columns_of(["acme", "bolt"]), []) == set()
