"""Which tenants a transaction may touch, as row-level security sees it.

Every query names its tenant; behind that, tables with tenants' rows have a policy that shows a transaction
only those of the tenants it was begun for. A transaction that was begun for none sees none. The setting
ends with its transaction, so a pooled connection cannot carry it on to the next one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, LiteralString

ALL_TENANTS: Final = "*"
"""Work that is every tenant's: upkeep, totals, what a group commit looks up for all callers at once.

A table of docs/architecture.md lists the code that uses it, with the reason.
"""

Scope = Iterable[int] | str

NO_TENANT: Final[tuple[int, ...]] = ()

# Statements that set what ends with the transaction (`true`); both at once where both are wanted, since
# each would be a round trip.
SET_SCOPE: Final[LiteralString] = "SELECT set_config('meterline.tenant_ids', %(tenants)s, true)"
SET_TIMEOUT: Final[LiteralString] = "SELECT set_config('statement_timeout', %(timeout)s, true)"
SET_BOTH: Final[LiteralString] = SET_SCOPE + ", set_config('statement_timeout', %(timeout)s, true)"


def to_setting(tenants: Scope) -> str:
    """The text of `meterline.tenant_ids`: `*`, or numbers with commas between."""
    if isinstance(tenants, str):
        if tenants != ALL_TENANTS:
            raise ValueError("a scope is ALL_TENANTS or numbers of tenants")
        return tenants
    return ",".join(str(int(tenant_id)) for tenant_id in sorted(set(tenants)))
