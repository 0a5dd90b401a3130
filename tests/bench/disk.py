"""What the tables of events and of usage take on disk, an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

# Partitions of a month or a day count as the table that they are of; those of a grain are told apart.
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
    """Bytes. heap: with its maps of free space and visibility; toast: with its index"""

    name: str
    heap: int
    indexes: int
    toast: int

    @property
    def total(self) -> int:
        return self.heap + self.indexes + self.toast


@dataclass(frozen=True, slots=True)
class Disk:
    """All tables of ingest and aggregate, the greatest first, and the events that they were filled by."""

    events: int
    tables: Sequence[Table]

    def an_event(self, size: int) -> float:
        """Bytes an event."""
        return size / max(1, self.events)

    def as_dict(self) -> dict[str, Any]:
        """As the JSON output has it: bytes an event."""
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
        """Tables that take a hundredth of all or more, and the rest as one."""
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
    """As they are now. `dsn` is of an administrator: a service sees its own tables only."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return Disk(events, [Table(*row) for row in connection.execute(_TABLES).fetchall()])
