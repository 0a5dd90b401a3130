"""Fixtures of all tests. `tests/support` holds them, one module for each concern."""

from __future__ import annotations

from hypothesis import settings

# No test says how long anything may take: machines are busy.
settings.register_profile("meterline", deadline=None)
settings.load_profile("meterline")

pytest_plugins = [
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.bus",
    "tests.support.runtime",
    "tests.support.spans",
    "tests.support.vaults",
]
