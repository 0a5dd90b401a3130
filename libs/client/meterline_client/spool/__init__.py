"""The disk spool: events and batches that were not sent, kept until they are acknowledged."""

from meterline_client.spool.journal import Journal
from meterline_client.spool.store import Spool, SpoolFullError

__all__ = ["Journal", "Spool", "SpoolFullError"]
