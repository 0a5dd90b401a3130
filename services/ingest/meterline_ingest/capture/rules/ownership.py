"""Whose events a caller may report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from meterline_ingest.event.columns import Columns
from meterline_ingest.event.outcomes import Kind, Problem
from meterline_ingest.event.problems import Problems

_ANY: Final = -1
_ABSENT: Final = -2

FOREIGN: Final = "TENANT_FORBIDDEN"


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of one call. `tenant` is the only one that its caller may report for; None: any."""

    rows: int
    tenant: str | None


def named(columns: Columns, problems: Problems) -> Sequence[str]:
    """The tenants to look up: those of all rows that are not foreign, after `flag_foreign`.

    Rows with other problems count too: they go to their tenant's quarantine.
    """
    if len(columns.tenants) == 1:
        return columns.tenants
    theirs = np.ones(len(columns), np.bool_)
    theirs[[row for row, problem in problems.by_row.items() if problem.reason == FOREIGN]] = False
    rows = np.bincount(columns.tenant_index[theirs], minlength=len(columns.tenants))
    return [name for name, count in zip(columns.tenants, rows.tolist(), strict=True) if count]


def flag_foreign(columns: Columns, shares: Sequence[Share], problems: Problems) -> None:
    """Flags events of tenants that their callers may not report for. `shares` follow one another.

    Names are compared once a dictionary entry; most batches are done then.
    """
    callers = {share.tenant for share in shares}
    if callers <= {None} or (len(callers) == 1 and callers.issuperset(columns.tenants)):
        return
    # Dictionaries of merged calls are concatenated, so that a name may occur twice.
    codes = {name: code for code, name in enumerate(dict.fromkeys(columns.tenants))}
    code_of_entry = np.array([codes[name] for name in columns.tenants], np.int64)
    allowed = [_ANY if share.tenant is None else codes.get(share.tenant, _ABSENT) for share in shares]
    allowed_of_row = np.repeat(np.array(allowed, np.int64), [share.rows for share in shares])
    foreign = (allowed_of_row != _ANY) & (code_of_entry[columns.tenant_index] != allowed_of_row)
    # Reported before other problems of a row, so that no caller learns which tenants exist, or fills the
    # quarantine of another.
    rule = Problem(Kind.REJECTED, FOREIGN, "tenant_id", "the caller's own tenant")
    problems.put_first(np.flatnonzero(foreign).tolist(), rule)
