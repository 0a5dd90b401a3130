"""Compares the numbers of events that ingest accepted and aggregate folded."""
