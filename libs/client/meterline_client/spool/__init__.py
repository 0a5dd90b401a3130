"""The disk spool: batches that could not be sent, kept until they are acknowledged."""

from meterline_client.spool.store import Spool, SpoolFullError

__all__ = ["Spool", "SpoolFullError"]
