"""The named statements of queries.sql."""

from __future__ import annotations

from meterline.db.queries import Queries

queries = Queries("meterline_aggregate")
