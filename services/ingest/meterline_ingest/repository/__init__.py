"""The only place with SQL."""

from meterline.db.queries import Queries

queries = Queries("meterline_ingest")
