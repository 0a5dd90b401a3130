"""Disk use of the tables of events and of usage, in bytes an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

# Partitions of a month or a day count as their table; those of a grain are reported separately.
_TABLES = r"""
SELECT n.nspname || '.' || regexp_replace(c.relname, '_(rest|\d{6,8})$', '') AS name,
       sum(pg_table_size(c.oid) - t.bytes)::bigint, sum(pg_indexes_size(c.oid))::bigint, sum(t.bytes)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
LATERAL (SELECT coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS bytes) t
WHERE c.relkind = 'r' AND n.nspname IN ('ingest', 'aggregate')
GROUP BY 1 ORDER BY sum(pg_total_relation_size(c.oid)) DESC, 1
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Bytes. heap: including its free space and visibility maps; toast: including its index"""

    name: str
    heap: int
    indexes: int
    toast: int

    @property
    def total(self) -> int:
        return self.heap + self.indexes + self.toast


@dataclass(frozen=True, slots=True)
class Disk:
    """All tables of ingest and aggregate, the largest first, and the number of captured events."""

    events: int
    tables: Sequence[Table]

    def an_event(self, size: int) -> float:
        """Bytes an event."""
        return size / max(1, self.events)

    def as_dict(self) -> dict[str, Any]:
        """The form of the JSON output: bytes an event."""
        return {
            "events": self.events,
            "bytes_per_event": round(self.an_event(sum(table.total for table in self.tables)), 1),
            "tables": {
                table.name: {
                    "heap": round(self.an_event(table.heap), 1),
                    "indexes": round(self.an_event(table.indexes), 1),
                    "toast": round(self.an_event(table.toast), 1),
                }
                for table in self.shown()
            },
        }

    def shown(self) -> list[Table]:
        """Tables that use at least a hundredth of the total, and the sum of the others."""
        least = sum(table.total for table in self.tables) / 100
        small = [table for table in self.tables if table.total < least]
        rest = Table(
            "others",
            sum(table.heap for table in small),
            sum(table.indexes for table in small),
            sum(table.toast for table in small),
        )
        return [*(table for table in self.tables if table.total >= least), rest]


def measured(dsn: str, events: int) -> Disk:
    """The current sizes. `dsn` is of an administrator, since a service sees only its own tables."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return Disk(events, [Table(*row) for row in connection.execute(_TABLES).fetchall()])
