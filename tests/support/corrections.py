"""Random histories of events with amendments and retractions, and the remaining events."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st
from meterline_aggregate.folding.rules.rows import Batch, Message, Quantity

from tests.support.folding import messages, positions, tenants

KEPT, RETRACTED, AMENDED = range(3)
_DEEPEST = 2
_ONE_TO_THREE, _HOURS, _UNITS = st.integers(1, 3), st.integers(-3, 3), st.integers(-9, 9)


@dataclass
class History:
    """Messages including corrections, and the rows that remain in the end."""

    messages: list[Message] = field(default_factory=list)
    survivors: list[Message] = field(default_factory=list)
    _batches: int = 0

    def renamed(self, message: Message) -> Message:
        """The message with new, unique batch ids."""
        ids = range(self._batches, self._batches + len(message.batches))
        self._batches += len(message.batches)
        batches = [
            replace(batch, batch_id=uuid.UUID(int=number).bytes)
            for number, batch in zip(ids, message.batches, strict=True)
        ]
        return replace(message, batches=batches)


@st.composite
def histories(draw: st.DrawFn) -> History:
    one = messages(draw(tenants), max_rows=8)
    history = History()
    for message in [draw(one) for _ in range(draw(_ONE_TO_THREE))]:
        history.messages.append(history.renamed(message))
        _correct_some(draw, history, message, _DEEPEST)
    return history


def _correct_some(draw: st.DrawFn, history: History, message: Message, deepest: int) -> None:
    """Corrects some rows of a message, and then some rows of the correction."""
    rows = len(message)
    fates = np.array(draw(positions(rows, AMENDED + 1)), np.int64)
    if not deepest:
        fates[:] = KEPT
    history.survivors.append(history.renamed(message.only(fates == KEPT)))
    if (fates != KEPT).any():
        amended = _amended(message.only(fates == AMENDED), draw(_HOURS), draw(_UNITS))
        history.messages.append(history.renamed(correction(message.only(fates != KEPT), amended)))
        _correct_some(draw, history, amended, deepest - 1)


def _amended(message: Message, hours: int, units: int) -> Message:
    """The same rows with other times and quantities."""
    return replace(
        message,
        times_us=np.maximum(message.times_us + hours * 3_600_000_000, 0),
        quantities={name: replace(one, units=one.units + units) for name, one in message.quantities.items()},
    )


def correction(retracted: Message, added: Message) -> Message:
    """One batch, without an id, that retracts rows and adds others of the same series, subjects and
    quantities."""
    return Message(
        [Batch(bytes(16), len(retracted) + len(added), "", 0)],
        retracted.series,
        retracted.subjects,
        np.concatenate([retracted.series_index, added.series_index]),
        np.concatenate([retracted.subject_index, added.subject_index]),
        np.concatenate([retracted.times_us, added.times_us]),
        {name: _joined(one, added.quantities[name]) for name, one in retracted.quantities.items()},
        np.arange(len(retracted) + len(added)) < len(retracted),
    )


def _joined(one: Quantity, other: Quantity) -> Quantity:
    units = np.concatenate([one.units, other.units])
    if one.present is None or other.present is None:
        return Quantity(one.scale, units, None)
    return Quantity(one.scale, units, np.concatenate([one.present, other.present]))
