"""Numbers as text, which allows any width."""

from __future__ import annotations

from collections.abc import Sequence


def numeric_array(literals: Sequence[str]) -> str:
    """A Postgres array literal of numbers or NULL; the statement casts it."""
    return "{" + ",".join(literals) + "}"
