"""Requests to columns of events, and rejected rows back to events."""
