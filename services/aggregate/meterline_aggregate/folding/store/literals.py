"""Numbers as text, in which they may have any width."""

from __future__ import annotations

from collections.abc import Sequence


def numeric_array(literals: Sequence[str]) -> str:
    """An array of numbers or NULL; the statement says the type."""
    return "{" + ",".join(literals) + "}"
