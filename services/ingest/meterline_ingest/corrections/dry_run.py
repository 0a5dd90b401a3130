"""Computes what a change would do, by asking aggregate and publisher before anything is changed."""

from __future__ import annotations

from typing import Final

from meterline_protos.common.v1 import types_pb2

from meterline_ingest.corrections.peers import Aggregate, PeerUnavailableError, Publisher
from meterline_ingest.corrections.rules.effects import Effect

# Invoices of at most this many months are previewed, the latest of those that change.
MOST_MONTHS: Final = 36


class Effects:
    """Effects that a peer does not answer are reported as unknown, and do not fail the rest."""

    def __init__(self, aggregate: Aggregate, publisher: Publisher) -> None:
        self._aggregate = aggregate
        self._publisher = publisher

    async def add(self, effect: Effect, tenant: str, message: bytes, *, retracted: int, added: int) -> None:
        """Adds what an `EventsAccepted` message would do to usage."""
        effect.retracted += retracted
        effect.added += added
        if effect.windows_unknown or not retracted + added:
            return
        try:
            sums = await self._aggregate.sums() if effect.windows else set()
            effect.take(await self._aggregate.preview(tenant, message), sums)
        except PeerUnavailableError as error:
            effect.windows_unknown = str(error)
            effect.windows.clear()

    async def finish(self, effect: Effect, tenant: str) -> Effect:
        """Adds the effect of the change of usage on invoices."""
        if effect.windows_unknown:
            effect.invoices_unknown = effect.windows_unknown
            return effect
        months = effect.deltas(types_pb2.GRAIN_MONTH)
        latest = sorted(months)[-MOST_MONTHS:]
        try:
            effect.invoices = [
                await self._publisher.preview(tenant, start, months[start]) for start in latest
            ]
        except PeerUnavailableError as error:
            effect.invoices_unknown = str(error)
            return effect
        if len(latest) < len(months):
            effect.invoices_unknown = f"OUT_OF_RANGE: only the latest {MOST_MONTHS} months are reported"
        return effect
