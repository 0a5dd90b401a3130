"""Retracted rows are subtracted only from the meters that counted them."""

from __future__ import annotations

from collections.abc import Sequence

from meterline.transactions.unit_of_work import Transaction

from meterline_aggregate.folding.decoding import Accepted
from meterline_aggregate.folding.rules.origins import Origin, limit_to_counted
from meterline_aggregate.folding.rules.rows import Message
from meterline_aggregate.folding.store.origins import find as find_origins


async def drop_uncounted(
    transaction: Transaction, accepted: Sequence[Accepted], messages: Sequence[Message]
) -> Sequence[Message]:
    """The messages, with each retracted row limited to the meters that counted it."""
    if all(one.retracted is None for one in accepted):
        return messages
    origins = [
        Origin(message.series[position].tenant_id, batch_id)
        for one, message in zip(accepted, messages, strict=True)
        for position, batch_id in zip(
            one.series_index[message.retracted_rows].tolist(), one.origins, strict=True
        )
    ]
    here = {batch.batch_id for message in messages for batch in message.batches}
    counted = await find_origins(transaction.connection, origins, here)
    return [
        limit_to_counted(message, one.origins, counted)
        for one, message in zip(accepted, messages, strict=True)
    ]
