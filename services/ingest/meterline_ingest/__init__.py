"""See docs/services/ingest.md."""
