"""Fixtures and helpers shared by tests of several parts."""
