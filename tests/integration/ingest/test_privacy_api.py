"""PrivacyService and AuditService: each change of keys is audited in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest
from grpc import aio
from meterline.clock import to_us
from meterline.db.pool import Connection, Database
from meterline.errors import FailedPreconditionError, MeterlineError
from meterline.tenants import TenantReplica
from meterline_ingest.audit import store as audit_store
from meterline_ingest.keys import service as keys_service
from meterline_protos.common.v1 import types_pb2
from meterline_protos.ingest.v1 import audit_pb2, audit_pb2_grpc, privacy_pb2, privacy_pb2_grpc

from tests.support.capture import RunningIngest
from tests.support.databases import TestDatabase
from tests.support.vaults import CHANGE, OpenReplica, stored_keys

pytestmark = pytest.mark.req("T4.3")

BY_ANN = {"requested_by": "ann@example.com", "reason": "ticket 17"}


@dataclass
class Api:
    privacy: privacy_pb2_grpc.PrivacyServiceAsyncStub
    audit: audit_pb2_grpc.AuditServiceAsyncStub

    async def rotate(self, **more: object) -> list[privacy_pb2.DataKey]:
        request = privacy_pb2.RotateTenantKeyRequest(**{"tenant_id": "acme", **BY_ANN, **more})  # type: ignore[arg-type]
        return list((await self.privacy.RotateTenantKey(request)).data_keys)

    async def shred(self, **more: object) -> int:
        request = privacy_pb2.ShredTenantRequest(**{"tenant_id": "acme", **BY_ANN, **more})  # type: ignore[arg-type]
        return int((await self.privacy.ShredTenant(request)).destroyed)

    async def keys(self) -> list[privacy_pb2.DataKey]:
        request = privacy_pb2.ListDataKeysRequest(tenant_id="acme")
        return list((await self.privacy.ListDataKeys(request)).data_keys)

    async def entries(self, **more: object) -> list[audit_pb2.AuditEntry]:
        """All matching entries, from all pages."""
        request = audit_pb2.ListAuditEntriesRequest(**{"tenant_id": "acme", **more})  # type: ignore[arg-type]
        found: list[audit_pb2.AuditEntry] = []
        while True:
            answer = await self.audit.ListAuditEntries(request)
            found += answer.entries
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token


@pytest.fixture
async def api(ingest: RunningIngest) -> Api:
    return Api(
        privacy_pb2_grpc.PrivacyServiceStub(ingest.channel), audit_pb2_grpc.AuditServiceStub(ingest.channel)
    )


def states(keys: Sequence[privacy_pb2.DataKey]) -> list[tuple[int, str]]:
    return [(key.key_id, privacy_pb2.KeyState.Name(key.state)[10:].lower()) for key in keys]


async def test_rotation_of_a_key_is_audited(api: Api) -> None:
    assert await api.keys() == []
    assert states(await api.rotate()) == [(0, "current"), (1, "current")]
    keys = await api.rotate(from_key_id=1)
    assert states(keys) == [(0, "current"), (1, "retired"), (2, "current")]
    assert await api.rotate(from_key_id=1) == keys, "a repeated call changes nothing"
    assert await api.keys() == keys
    assert [key.purpose for key in keys] == [
        privacy_pb2.KEY_PURPOSE_FINGERPRINTS,
        privacy_pb2.KEY_PURPOSE_SEALING,
        privacy_pb2.KEY_PURPOSE_SEALING,
    ]
    assert {key.master_key_id for key in keys} == {"test"}
    assert keys[1].retired_at.ToDatetime() >= keys[1].created_at.ToDatetime()
    assert not keys[2].HasField("retired_at")
    assert [(e.principal, e.action, e.subject, e.reason) for e in await api.entries()] == [
        ("ann@example.com", "tenant_key.rotated", "key 2", "ticket 17"),
        ("ann@example.com", "tenant_key.rotated", "key 1", "ticket 17"),
    ]


async def test_shredding_a_tenant_is_final(api: Api, database: TestDatabase) -> None:
    await api.rotate()
    await api.rotate()
    assert await api.shred() == 3
    assert await api.shred() == 0
    assert stored_keys(database, "DISTINCT tenant_id, key_id, wrapped, state") == [
        (1, key_id, None, "shredded") for key_id in range(3)
    ]
    with pytest.raises(aio.AioRpcError) as caught:
        await api.rotate()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    shredded = await api.entries(action="tenant.shredded")
    assert [(e.principal, e.subject, e.reason, dict(e.details)) for e in shredded] == [
        ("ann@example.com", "tenant acme", "ticket 17", {"keys": 3})
    ]


async def test_shredded_tenant_without_keys_gets_none_later(
    api: Api, database: TestDatabase, open_replica: OpenReplica
) -> None:
    await api.shred()
    assert states(await api.keys()) == [(0, "shredded"), (1, "shredded")]
    replica = await open_replica(database)
    assert (await replica.vault.keyring(None, 1)).shredded


class Hold:
    def __init__(self, *names: str) -> None:
        self.names = names

    async def placed(self, connection: Connection, tenant_id: int) -> Sequence[str]:
        return self.names if tenant_id == 1 else ()


async def test_legal_hold_prevents_shredding(
    api: Api, database: TestDatabase, open_replica: OpenReplica
) -> None:
    await api.rotate()
    replica = await open_replica(database)
    tenants = TenantReplica(replica.database)
    with pytest.raises(FailedPreconditionError, match="held by case 7, case 8"):
        await keys_service.shred_tenant(
            replica.store, tenants, [Hold(), Hold("case 7", "case 8")], "acme", CHANGE
        )
    assert states(await api.keys()) == [(0, "current"), (1, "current")]
    assert [entry.action for entry in await api.entries()] == ["tenant_key.rotated"]
    assert await keys_service.shred_tenant(replica.store, tenants, [Hold()], "acme", CHANGE) == 2


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("requested_by", ""),
        ("requested_by", " \t"),
        ("requested_by", "a" * 129),
        ("requested_by", "a\0"),
        ("reason", ""),
        ("reason", "r" * 501),
        ("reason", "\0"),
    ],
)
async def test_changes_need_requester_and_reason(api: Api, field: str, text: str) -> None:
    for call in (api.rotate, api.shred):
        with pytest.raises(aio.AioRpcError, match=field) as caught:
            await call(**{field: text})
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await api.keys() == []


async def test_unknown_tenant_is_not_found(api: Api) -> None:
    for call in (api.rotate, api.shred, api.entries):
        with pytest.raises(aio.AioRpcError) as caught:
            await call(tenant_id="nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_change_without_audit_entry_is_rolled_back(
    database: TestDatabase, open_replica: OpenReplica, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise MeterlineError("no audit log")

    await api.rotate()
    replica = await open_replica(database)
    monkeypatch.setattr(audit_store, "record", failing)
    with pytest.raises(MeterlineError, match="no audit log"):
        await keys_service.shred_tenant(replica.store, TenantReplica(replica.database), [], "acme", CHANGE)
    with pytest.raises(MeterlineError, match="no audit log"):
        await keys_service.rotate_tenant_key(
            replica.store, TenantReplica(replica.database), "acme", 0, CHANGE
        )
    monkeypatch.undo()
    assert states(await api.keys()) == [(0, "current"), (1, "current")]


async def note(database: Database, tenant_id: int, number: int, **changes: str) -> None:
    given = {"action": "thing.done", "subject": "thing", "principal": "ann", "reason": "so"} | changes
    async with database.connection([tenant_id]) as connection:
        await audit_store.record(connection, tenant_id, details={"number": str(number)}, **given)
        await connection.commit()


async def test_entries_are_listed_newest_first_with_pages_and_filters(
    api: Api, database: TestDatabase, open_replica: OpenReplica
) -> None:
    pool = (await open_replica(database)).database
    for number in range(7):
        await note(pool, 1, number, principal=f"ann{number % 2}", action=f"thing.{number % 3}")
    await note(pool, 2, 100)
    await note(pool, 0, 200)

    def numbers(entries: list[audit_pb2.AuditEntry]) -> list[str]:
        return [str(entry.details["number"]) for entry in entries]

    assert numbers(await api.entries()) == list("6543210")
    assert numbers(await api.entries(page_size=3)) == list("6543210")
    assert numbers(await api.entries(principal="ann1")) == list("531")
    assert numbers(await api.entries(action="thing.0", page_size=1)) == list("630")
    assert numbers(await api.entries(subject="thing", principal="ann0", action="thing.2")) == ["2"]
    assert numbers(await api.entries(tenant_id="")) == ["200"]
    whole = await api.entries()
    start, end = whole[4].at.ToDatetime(tzinfo=UTC), whole[1].at.ToDatetime(tzinfo=UTC)
    time = types_pb2.TimeRange()
    time.start_time.FromMicroseconds(to_us(start))
    time.end_time.FromMicroseconds(to_us(end))
    assert numbers(await api.entries(time=time)) == list("432")
    assert abs(datetime.now(UTC) - start) < timedelta(minutes=5)


@pytest.mark.parametrize(
    "wrong", [{"page_token": "nonsense"}, {"page_token": "WyJub25zZW5zZSJd"}, {"action": "a\0"}]
)
async def test_invalid_list_requests_are_refused(api: Api, wrong: dict[str, str]) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await api.entries(**wrong)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET reason = ''", "DELETE FROM audit_log"])
async def test_audit_entries_cannot_be_changed(database: TestDatabase, statement: str) -> None:
    with (
        psycopg.connect(database.app_dsn("ingest")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


@pytest.mark.req("T4.1")
@pytest.mark.parametrize("table", ["audit_log", "data_keys"])
async def test_row_level_security_hides_entries_of_other_tenants(
    api: Api, database: TestDatabase, table: str
) -> None:
    await api.rotate()

    def seen(scope: str) -> int:
        with psycopg.connect(database.app_dsn("ingest")) as connection:
            connection.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (scope,))
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])

    assert [seen(scope) > 0 for scope in ("", "2", "1", "*")] == [False, False, True, True]
