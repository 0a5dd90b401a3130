"""Fixtures of all tests. `tests/support` holds them, one module for each concern."""

from __future__ import annotations

import decimal

import structlog
from hypothesis import settings

from tests.support.bytecode import share_bytecode
from tests.support.memory import keep_files_in_memory

share_bytecode()
keep_files_in_memory()

# Inexact decimal arithmetic raises in tests: sums of money and quantities are exact, or rounded by a rule
# in an explicit context.
for _context in (decimal.DefaultContext, decimal.getcontext()):
    _context.traps[decimal.Inexact] = True

# Rendering a traceback with all variables takes seconds on a busy machine.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# No test limits durations, since machines may be busy.
settings.register_profile("meterline", deadline=None)
settings.load_profile("meterline")

pytest_plugins = [
    "tests.support.schedule",
    "tests.support.servers",
    "tests.support.databases",
    "tests.support.bus",
    "tests.support.runtime",
    "tests.support.spans",
    "tests.support.vaults",
]
