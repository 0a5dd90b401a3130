"""Fixtures of all tests. `tests/support` holds them, one module for each concern."""

from __future__ import annotations

pytest_plugins = [
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.bus",
    "tests.support.runtime",
    "tests.support.spans",
    "tests.support.vaults",
]
