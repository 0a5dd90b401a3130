"""PrivacyService."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grpc import aio
from meterline.tenants import TenantReplica
from meterline_protos.ingest.v1 import privacy_pb2, privacy_pb2_grpc

from meterline_ingest.audit.rules import ChangeRequest
from meterline_ingest.keys import service as handlers
from meterline_ingest.keys.rotation import KeyStore
from meterline_ingest.keys.rules import KeyRecord, Purpose, State
from meterline_ingest.keys.service import Holds

Context = aio.ServicerContext[Any, Any]

_PURPOSES: Final = {
    Purpose.SEALING: privacy_pb2.KEY_PURPOSE_SEALING,
    Purpose.FINGERPRINTS: privacy_pb2.KEY_PURPOSE_FINGERPRINTS,
}
_STATES: Final = {
    State.CURRENT: privacy_pb2.KEY_STATE_CURRENT,
    State.RETIRED: privacy_pb2.KEY_STATE_RETIRED,
    State.SHREDDED: privacy_pb2.KEY_STATE_SHREDDED,
}


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    def __init__(self, store: KeyStore, tenants: TenantReplica, holds: Sequence[Holds]) -> None:
        self._store = store
        self._tenants = tenants
        self._holds = holds

    async def RotateTenantKey(
        self, request: privacy_pb2.RotateTenantKeyRequest, context: Context
    ) -> privacy_pb2.RotateTenantKeyResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        records = await handlers.rotate_tenant_key(
            self._store, self._tenants, request.tenant_id, request.from_key_id, change
        )
        return privacy_pb2.RotateTenantKeyResponse(data_keys=map(_to_proto, records))

    async def ShredTenant(
        self, request: privacy_pb2.ShredTenantRequest, context: Context
    ) -> privacy_pb2.ShredTenantResponse:
        change = ChangeRequest(request.requested_by, request.reason)
        destroyed = await handlers.shred_tenant(
            self._store, self._tenants, self._holds, request.tenant_id, change
        )
        return privacy_pb2.ShredTenantResponse(destroyed=destroyed)

    async def ListDataKeys(
        self, request: privacy_pb2.ListDataKeysRequest, context: Context
    ) -> privacy_pb2.ListDataKeysResponse:
        records = await handlers.list_data_keys(self._store, self._tenants, request.tenant_id)
        return privacy_pb2.ListDataKeysResponse(data_keys=map(_to_proto, records))


def _to_proto(record: KeyRecord) -> privacy_pb2.DataKey:
    message = privacy_pb2.DataKey(
        key_id=record.key_id,
        purpose=_PURPOSES[record.purpose],
        state=_STATES[record.state],
        master_key_id=record.master_key_id,
        sealed=record.sealed,
    )
    message.created_at.FromDatetime(record.created_at)
    if record.retired_at is not None:
        message.retired_at.FromDatetime(record.retired_at)
    if record.resealed_at is not None:
        message.resealed_at.FromDatetime(record.resealed_at)
    return message
