"""Fixtures and helpers that tests of several parts share."""
