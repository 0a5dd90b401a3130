"""Ingest that deletes published messages from the outbox: a wiped broker loses them until a rebuild."""

from __future__ import annotations

from meterline.transactions.outbox import queries
from meterline_ingest.main import main


def forget_published() -> None:
    queries._by_name["mark_published"] = "DELETE FROM outbox WHERE message_id = ANY(%s)"


if __name__ == "__main__":
    forget_published()
    main()
