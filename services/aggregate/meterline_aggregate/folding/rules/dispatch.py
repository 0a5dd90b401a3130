"""Chooses how to fold: in columns where there are many rows, otherwise one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meterline_aggregate.folding.rules.changes import Changes
from meterline_aggregate.folding.rules.corrections import fold_corrections
from meterline_aggregate.folding.rules.plain import fold_plain
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.rules.vectors import fold_vectors
from meterline_aggregate.kinds.grouping import UnsuitableError
from meterline_aggregate.windows.calendar import OddMinuteError

# Below this many rows, the fixed cost of columns exceeds that of plain folding (tests/bench/fold.py).
FEW_ROWS: Final = 10


def fold(messages: Sequence[Message]) -> Changes:
    """Folds messages into one change for each window, contribution and tenant.

    The order of messages and rows does not matter, and folding parts separately and applying both gives the
    same result. Retracted rows may come before the rows that they retract.
    """
    if any(message.retracted is not None for message in messages):
        return fold_corrections(messages, _fold)
    return _fold(messages)


def _fold(messages: Sequence[Message]) -> Changes:
    if sum(map(len, messages)) < FEW_ROWS:
        return fold_plain(messages)
    try:
        return fold_vectors(messages)
    except (UnsuitableError, OddMinuteError):
        return fold_plain(messages)
