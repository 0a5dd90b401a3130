"""API keys and signing keys: created once, listed, revoked permanently, and separated by tenant."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable

import grpc
import psycopg
import pytest
from grpc import aio
from meterline.auth.api_keys import parse
from meterline.auth.principals import Permission
from meterline.rpc import paging
from meterline_dev.channels import metadata
from meterline_dev.servers import NatsServer
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc, tenants_pb2, tenants_pb2_grpc

from tests.support.callers import Authority
from tests.support.credentials import Guarded, guarded, refused
from tests.support.databases import TestDatabase

pytestmark = pytest.mark.req("T4.1")

Code = grpc.StatusCode


@pytest.fixture
def database(make_database: Callable[..., TestDatabase]) -> TestDatabase:
    return make_database("identity", "ingest")


@pytest.fixture
async def services(database: TestDatabase, broker: NatsServer) -> AsyncIterator[Guarded]:
    async with guarded(database, broker, credential_fresh_seconds=0.001) as both:
        await both.onboard("acme")
        await both.onboard("bolt")
        yield both


@pytest.fixture
async def bare(services: Guarded) -> AsyncIterator[aio.Channel]:
    """A channel to identity without a token: each call passes its own credentials."""
    async with aio.insecure_channel(services.identity_address) as channel:
        yield channel


@pytest.fixture
def tenants(bare: aio.Channel) -> tenants_pb2_grpc.TenantsServiceAsyncStub:
    return tenants_pb2_grpc.TenantsServiceStub(bare)


@pytest.fixture
def credentials(bare: aio.Channel) -> credentials_pb2_grpc.CredentialsServiceAsyncStub:
    return credentials_pb2_grpc.CredentialsServiceStub(bare)


def get(tenant: str = "acme") -> tenants_pb2.GetTenantRequest:
    return tenants_pb2.GetTenantRequest(tenant_id=tenant)


# --- API keys


async def test_api_key_permits_only_its_granted_calls(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    made = await services.api_key("acme", Permission.READ)
    key = metadata(made.token)
    assert (await tenants.GetTenant(get(), metadata=key)).tenant.tenant_id == "acme"
    assert await refused(tenants.GetTenant(get("bolt"), metadata=key)) == (
        Code.PERMISSION_DENIED,
        "TENANT_FORBIDDEN",
    )
    assert await refused(tenants.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=key)) == (
        Code.PERMISSION_DENIED,
        "ALL_TENANTS_NEEDED",
    )
    change = tenants_pb2.UpdateTenantRequest(tenant_id="acme", plan="free")
    assert await refused(tenants.UpdateTenant(change, metadata=key)) == (
        Code.PERMISSION_DENIED,
        "PERMISSION_MISSING",
    )
    assert await refused(tenants.GetTenant(get())) == (Code.UNAUTHENTICATED, "TOKEN_MISSING")


async def test_key_for_all_tenants_has_access_to_each(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    made = await services.api_key("", Permission.READ)
    key = metadata(made.token)
    answer = await tenants.ListTenants(tenants_pb2.ListTenantsRequest(), metadata=key)
    assert [tenant.tenant_id for tenant in answer.tenants] == ["acme", "bolt"]


async def test_key_secret_is_returned_once_and_not_stored(services: Guarded, database: TestDatabase) -> None:
    made = await services.api_key("acme", Permission.READ)
    parsed = parse(made.token)
    assert parsed is not None
    assert parsed[0] == made.api_key.key_id
    secret = made.token.rpartition("_")[2]
    with psycopg.connect(database.admin_dsn) as connection:
        (row,) = connection.execute("SELECT api_keys::text, secret_digest FROM identity.api_keys").fetchall()
    assert secret not in row[0]
    assert row[1] == hashlib.sha256(secret.encode()).digest()


async def test_revoked_key_is_refused_and_remains_listed(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    made = await services.api_key("acme", Permission.READ)
    key = metadata(made.token)
    await tenants.GetTenant(get(), metadata=key)
    request = credentials_pb2.RevokeApiKeyRequest(tenant_id="acme", key_id=made.api_key.key_id)
    revoked = (await services.credentials.RevokeApiKey(request)).api_key
    assert (revoked.revoked_by, revoked.created_by) == ("tester", "tester")
    assert await refused(tenants.GetTenant(get(), metadata=key)) == (Code.UNAUTHENTICATED, "TOKEN_INVALID")
    assert (await services.credentials.RevokeApiKey(request)).api_key == revoked
    listed = await services.credentials.ListApiKeys(credentials_pb2.ListApiKeysRequest(tenant_id="acme"))
    assert list(listed.api_keys) == [revoked]


async def test_wrong_secret_for_a_key_is_refused(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    made = await services.api_key("acme", Permission.READ)
    forged = f"mlk_{made.api_key.key_id}_{'0' * 64}"
    assert await refused(tenants.GetTenant(get(), metadata=metadata(forged))) == (
        Code.UNAUTHENTICATED,
        "TOKEN_INVALID",
    )


async def test_keys_are_listed_in_pages_for_each_tenant(services: Guarded) -> None:
    made = [(await services.api_key("acme", Permission.READ)).api_key.key_id for _ in range(5)]
    await services.api_key("bolt", Permission.READ)
    of_all = (await services.api_key("", Permission.OPERATE)).api_key
    found, token = [], ""
    for _ in range(3):
        request = credentials_pb2.ListApiKeysRequest(tenant_id="acme", page_size=2, page_token=token)
        page = await services.credentials.ListApiKeys(request)
        found += [key.key_id for key in page.api_keys]
        token = page.next_page_token
    assert (found, token) == (made, "")
    listed = await services.credentials.ListApiKeys(credentials_pb2.ListApiKeysRequest())
    assert list(listed.api_keys) == [of_all]
    for made_up in ("made up", paging.token(2**62, "a")):
        request = credentials_pb2.ListApiKeysRequest(page_token=made_up)
        assert (await refused(services.credentials.ListApiKeys(request)))[0] is Code.INVALID_ARGUMENT


async def test_tenant_creates_own_keys_with_at_most_its_permissions(
    services: Guarded, credentials: credentials_pb2_grpc.CredentialsServiceAsyncStub
) -> None:
    mine = metadata((await services.api_key("acme", Permission.CREDENTIALS, Permission.READ)).token)

    def asking(tenant: str, *permissions: Permission) -> credentials_pb2.CreateApiKeyRequest:
        return credentials_pb2.CreateApiKeyRequest(tenant_id=tenant, name="n", permissions=permissions)

    made = await credentials.CreateApiKey(asking("acme", Permission.READ), metadata=mine)
    assert made.api_key.created_by.startswith("a key (mlk_")
    for request, code, reason in (
        (asking("bolt", Permission.READ), Code.PERMISSION_DENIED, "TENANT_FORBIDDEN"),
        (asking("", Permission.READ), Code.PERMISSION_DENIED, "ALL_TENANTS_NEEDED"),
        (asking("acme", Permission.CAPTURE), Code.PERMISSION_DENIED, "PERMISSION_MISSING"),
        (asking("acme", Permission.OPERATE), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (asking("acme", Permission.INTERNAL), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (asking("acme"), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ):
        assert await refused(credentials.CreateApiKey(request, metadata=mine)) == (code, reason)


async def test_tenant_cannot_revoke_key_of_another(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    made = await services.api_key("acme", Permission.READ)
    for tenant in ("bolt", ""):
        request = credentials_pb2.RevokeApiKeyRequest(tenant_id=tenant, key_id=made.api_key.key_id)
        assert (await refused(services.credentials.RevokeApiKey(request)))[0] is Code.NOT_FOUND
    await tenants.GetTenant(get(), metadata=metadata(made.token))


async def test_internal_rpcs_are_only_for_services(services: Guarded) -> None:
    verify = credentials_pb2.VerifyApiKeyRequest(key_id="0" * 16, secret_digest=b"")
    keys = credentials_pb2.GetSigningKeysRequest(tenant_id="acme", key_ids=["0" * 16])
    expected = (Code.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert await refused(services.credentials.VerifyApiKey(verify)) == expected
    assert await refused(services.credentials.GetSigningKeys(keys)) == expected


async def test_token_of_unknown_authority_is_refused(
    services: Guarded, tenants: tenants_pb2_grpc.TenantsServiceAsyncStub
) -> None:
    theirs = Authority().metadata(Permission.READ)
    assert await refused(tenants.GetTenant(get(), metadata=theirs)) == (
        Code.UNAUTHENTICATED,
        "TOKEN_INVALID",
    )


# --- signing keys


@pytest.mark.req("T1.4")
async def test_previous_signing_key_verifies_during_grace_period(services: Guarded) -> None:
    first = await services.rotate("acme")
    assert not first.HasField("expires_at")
    second = await services.rotate("acme", grace_seconds=600)
    listed = await services.credentials.ListSigningKeys(
        credentials_pb2.ListSigningKeysRequest(tenant_id="acme")
    )
    newest, older = listed.signing_keys
    assert (newest, older.key_id) == (second, first.key_id)
    grace_us = older.expires_at.ToMicroseconds() - second.created_at.ToMicroseconds()
    assert grace_us == 600_000_000
    assert (await services.client("acme")).key_id == second.key_id
    again = credentials_pb2.RotateSigningKeyRequest(tenant_id="acme")
    refusal = await refused(services.credentials.RotateSigningKey(again))
    assert refusal == (Code.FAILED_PRECONDITION, "TWO_SIGNING_KEYS")


@pytest.mark.req("T1.4")
async def test_revoked_signing_key_loses_its_secret_and_frees_its_place(
    services: Guarded, database: TestDatabase
) -> None:
    first = await services.rotate("acme")
    await services.rotate("acme")
    revoked = await services.revoke("acme", first.key_id)
    assert revoked.revoked_by == "tester"
    assert await services.revoke("acme", first.key_id) == revoked
    third = await services.rotate("acme", grace_seconds=0)
    assert (await services.client("acme")).key_id == third.key_id
    with psycopg.connect(database.admin_dsn) as connection:
        rows = connection.execute(
            "SELECT secret IS NULL FROM identity.signing_keys ORDER BY generation"
        ).fetchall()
    assert rows == [(True,), (False,), (False,)]


@pytest.mark.req("T1.4")
async def test_concurrent_rotations_create_no_third_key(services: Guarded) -> None:
    results = await asyncio.gather(*(services.rotate("acme") for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, credentials_pb2.SigningKey) for result in results) == 2


@pytest.mark.req("T1.4")
async def test_capture_config_needs_a_key_and_expires_with_it(services: Guarded) -> None:
    asked = credentials_pb2.IssueCaptureConfigRequest(tenant_id="acme", types=["t"], source="s")
    issue = services.credentials.IssueCaptureConfig
    assert await refused(issue(asked)) == (Code.FAILED_PRECONDITION, "NO_SIGNING_KEY")
    first = await services.rotate("acme")
    second = await services.rotate("acme", grace_seconds=60)
    await services.revoke("acme", second.key_id)
    answer = await issue(asked)
    assert answer.key_id == first.key_id
    config = credentials_pb2.CaptureConfig.FromString(answer.config)
    assert config.expires_at == answer.expires_at
    assert config.expires_at.ToMicroseconds() == second.created_at.ToMicroseconds() + 60_000_000


@pytest.mark.req("T1.4")
async def test_client_secret_is_derived_from_key_and_config(
    services: Guarded, credentials: credentials_pb2_grpc.CredentialsServiceAsyncStub
) -> None:
    key = await services.rotate("acme")
    client = await services.client("acme", actor="ann")
    internal = services.authority.metadata(Permission.INTERNAL, name="ingest")
    found = await credentials.GetSigningKeys(
        credentials_pb2.GetSigningKeysRequest(tenant_id="acme", key_ids=[key.key_id, "f" * 16]),
        metadata=internal,
    )
    (known,) = found.keys
    assert (known.key_id, known.revoked, len(known.secret)) == (key.key_id, False, 32)
    assert hmac.digest(known.secret, client.config, hashlib.sha256) == client.secret


@pytest.mark.req("T1.4", "T4.3")
async def test_signing_secrets_are_encrypted_at_rest(
    services: Guarded, credentials: credentials_pb2_grpc.CredentialsServiceAsyncStub, database: TestDatabase
) -> None:
    key = await services.rotate("acme")
    internal = services.authority.metadata(Permission.INTERNAL, name="ingest")
    found = await credentials.GetSigningKeys(
        credentials_pb2.GetSigningKeysRequest(tenant_id="acme", key_ids=[key.key_id]), metadata=internal
    )
    with psycopg.connect(database.admin_dsn) as connection:
        ((sealed,),) = connection.execute("SELECT secret FROM identity.signing_keys").fetchall()
    assert found.keys[0].secret not in bytes(sealed)


@pytest.mark.req("T1.4")
async def test_tenant_cannot_use_signing_keys_of_another(services: Guarded) -> None:
    key = await services.rotate("acme")
    request = credentials_pb2.RevokeSigningKeyRequest(tenant_id="bolt", key_id=key.key_id)
    assert (await refused(services.credentials.RevokeSigningKey(request)))[0] is Code.NOT_FOUND
    listed = await services.credentials.ListSigningKeys(
        credentials_pb2.ListSigningKeysRequest(tenant_id="bolt")
    )
    assert list(listed.signing_keys) == []


@pytest.mark.parametrize("table", ["api_keys", "signing_keys"])
async def test_row_level_security_hides_credentials_of_other_tenants(
    services: Guarded, database: TestDatabase, table: str
) -> None:
    """Checked with the service's own role: a second defence against queries without a tenant condition."""
    for tenant in ("acme", "bolt"):
        await services.api_key(tenant, Permission.READ)
        await services.rotate(tenant)
    seen = {}
    with psycopg.connect(database.app_dsn("identity")) as connection:
        for scope in ("", "1", "2", "1,2", "*"):
            connection.execute("SELECT set_config('meterline.tenant_ids', %s, true)", (scope,))
            row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            seen[scope] = row[0] if row else None
    assert seen == {"": 0, "1": 1, "2": 1, "1,2": 2, "*": 2}
