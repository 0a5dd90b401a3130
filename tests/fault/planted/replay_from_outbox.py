"""Ingest that deletes published messages from the outbox, and replays only the remaining ones."""

from __future__ import annotations

from meterline_ingest.capture.store.messages import queries
from meterline_ingest.main import main

from tests.fault.planted.forgetful_outbox import forget_published

_OUTBOX_ALONE = """
SELECT message_id FROM outbox
WHERE message_id > %(after)s::uuid AND message_id < uuid_floor(%(end)s::timestamptz)
ORDER BY message_id LIMIT %(limit)s
"""

if __name__ == "__main__":
    forget_published()
    queries._by_name["messages_of_time"] = _OUTBOX_ALONE
    main()
