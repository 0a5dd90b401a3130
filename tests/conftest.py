"""Fixtures of all tests. `tests/support` holds them, one module for each concern."""

from __future__ import annotations

import decimal

import structlog
from hypothesis import settings

from tests.support.bytecode import share_bytecode
from tests.support.memory import keep_files_in_memory

share_bytecode()
keep_files_in_memory()

# Arithmetic that drops a digit fails here: a sum of money or of a quantity is exact, or is rounded where its
# rule says so, in a context that says so too.
for _context in (decimal.DefaultContext, decimal.getcontext()):
    _context.traps[decimal.Inexact] = True

# A traceback with all its variables takes seconds of a busy machine to draw, and tests have many.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# No test says how long anything may take: machines are busy.
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
