"""Sensitive properties of stored events, shown to callers that give a reason."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from meterline.transactions.unit_of_work import UnitOfWork

from meterline_ingest.audit import store as audit_store
from meterline_ingest.audit.rules import EVENTS_UNSEALED, ChangeRequest
from meterline_ingest.keys.vault import Vault
from meterline_ingest.reading.store import StoredEvent

Opened = dict[uuid.UUID, dict[str, str]]
"""Sensitive properties by event."""


@dataclass(frozen=True, slots=True)
class Unsealer:
    unit_of_work: UnitOfWork
    vault: Vault

    async def open(
        self, tenant_id: int, events: Sequence[StoredEvent], asked: ChangeRequest | None
    ) -> Opened:
        """Returns nothing unless asked. What is unsealed is in the audit log before it is returned.

        Raises ShreddedError when the tenant's keys are destroyed, TamperedError.
        """
        sealed = [(event.event_id, event.sealed) for event in events if event.sealed is not None]
        if asked is None or not sealed:
            return {}
        keyring = await self.vault.keyring(None, tenant_id, create=False)
        opened = {
            event_id: json.loads(keyring.unseal(place.table, place.column, place.row, place.value))
            for event_id, place in sealed
        }
        async with self.unit_of_work.begin([tenant_id]) as transaction:
            await audit_store.record(
                transaction.connection,
                tenant_id,
                action=EVENTS_UNSEALED,
                subject=f"event {sealed[0][0]}" if len(sealed) == 1 else f"{len(sealed)} events",
                principal=asked.requested_by,
                reason=asked.reason,
                details={"event_ids": [str(event_id) for event_id, _ in sealed]},
            )
            await transaction.commit()
        return opened
