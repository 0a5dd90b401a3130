"""Ingest that forgets a message once the broker has it: a wiped broker then loses it for good."""

from __future__ import annotations

from meterline.outbox.store import queries
from meterline_ingest.main import main

if __name__ == "__main__":
    queries._by_name["mark_published"] = "DELETE FROM outbox WHERE message_id = ANY(%s)"
    main()
