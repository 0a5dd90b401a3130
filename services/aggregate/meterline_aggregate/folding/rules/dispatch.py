"""Which of the two ways to fold: columns where there are many rows, one by one otherwise."""

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

# Below this many rows the fixed cost of the columns is the greater one (tests/bench/fold.py).
FEW_ROWS: Final = 10


def fold(messages: Sequence[Message]) -> Changes:
    """One change for each window, contribution and tenant that the messages touch.

    The order of messages and of their rows means nothing, and folding parts apart and applying both comes
    to the same. Rows that are taken away may come before those that they repeat.
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
