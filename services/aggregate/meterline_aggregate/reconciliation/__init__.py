"""Comparison of the events that ingest accepted with those that were folded."""
