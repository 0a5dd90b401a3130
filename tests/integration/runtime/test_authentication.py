"""Authentication over gRPC: before handlers, with standard statuses, for as long as a stream lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meterline.auth.api_keys import KnownKeys, make
from meterline.auth.gate import Bearers, Gate
from meterline.auth.principals import Kind, Permission, Principal, current_principal
from meterline.auth.public_keys import LOOK_SECONDS, KeyRing
from meterline.auth.tokens import ServiceTokens
from meterline.clock import SystemClock
from meterline.config import ServiceSettings
from meterline.rpc.client import Caller
from meterline.rpc.client import channel as service_channel
from meterline.service import auth
from meterline_dev.channels import metadata
from pydantic import ValidationError

from tests.support.callers import Authority
from tests.support.calls import RULES, client_of, server_of, started
from tests.support.credentials import refused

pytestmark = pytest.mark.req("T4.1")

AUTHORITY = Authority()
Code = grpc.StatusCode


class Keys:
    """A fake of identity that answers the gate's key lookups."""

    def __init__(self) -> None:
        self.holders: dict[str, Principal] = {}
        self.answers = asyncio.Event()
        self.answers.set()

    async def verify(self, key_id: str, digest: bytes) -> Principal | None:
        await self.answers.wait()
        return self.holders.get(key_id)

    def gate(self, *, fresh: float = 60.0) -> Gate:
        known = KnownKeys(self.verify, fresh=fresh)
        return Gate(RULES, Bearers(AUTHORITY.tokens(), known, SystemClock()))

    def make(self, *permissions: Permission) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Makes a key; returns its id and the call metadata that carries it."""
        key = make()
        self.holders[key.key_id] = Principal("holder", Kind.API_KEY, None, frozenset(permissions))
        return key.key_id, metadata(key.token)


async def whoami(text: str) -> str:
    return current_principal().name


async def test_handler_is_called_with_principal_of_permitted_callers() -> None:
    keys, reached = Keys(), []

    async def ask(text: str) -> str:
        reached.append(text)
        return current_principal().name

    _, reader = keys.make(Permission.READ)
    _, writer = keys.make(Permission.CAPTURE)
    server = server_of(ask, gate=keys.gate(), grace=0.1)
    async with started(server) as channel:
        client = client_of(channel)
        assert await client.ask("1", metadata=reader) == "holder"
        assert await client.ask("2", metadata=AUTHORITY.metadata(Permission.READ)) == "tester"
        assert await refused(client.ask("3", metadata=writer)) == (
            Code.PERMISSION_DENIED,
            "PERMISSION_MISSING",
        )
        assert await refused(client.ask("4")) == (Code.UNAUTHENTICATED, "TOKEN_MISSING")
        bound = AUTHORITY.metadata(Permission.READ, tenant="acme")
        assert await refused(client.ask("5", metadata=bound)) == (
            Code.PERMISSION_DENIED,
            "ALL_TENANTS_NEEDED",
        )
    assert reached == ["1", "2"]


async def test_health_check_needs_no_credentials() -> None:
    server = server_of(gate=Keys().gate(), grace=0.1)
    async with started(server) as channel:
        await server.serve()
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_stream_ends_when_its_key_is_revoked() -> None:
    keys = Keys()
    key_id, holder = keys.make(Permission.CAPTURE)
    taken: list[str] = []

    async def talk(texts: AsyncIterator[str]) -> AsyncIterator[str]:
        async for text in texts:
            taken.append(text)
            yield text

    async with started(server_of(talk=talk, gate=keys.gate(fresh=1e-9), grace=0.1)) as channel:
        call = client_of(channel).talk(metadata=holder)
        await call.write("before")
        assert await call.read() == "before"
        del keys.holders[key_id]
        await call.write("after")
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is Code.UNAUTHENTICATED
    assert taken == ["before"]


async def test_stream_ends_when_its_key_is_removed_from_the_file(tmp_path: Path) -> None:
    path, now, other = tmp_path / "public-keys", 0.0, Authority()
    path.write_text(AUTHORITY.public_keys)
    ring = KeyRing(path, now=lambda: now)
    gate = Gate(RULES, Bearers(ServiceTokens(ring), KnownKeys(Keys().verify), SystemClock()))
    async with started(server_of(gate=gate, grace=0.1)) as channel:
        holder = AUTHORITY.metadata(Permission.CAPTURE, Permission.READ)
        call = client_of(channel).talk(metadata=holder)
        await call.write("before")
        assert await call.read() == "before"
        path.write_text(other.public_keys)
        now += LOOK_SECONDS
        await call.write("after")
        with pytest.raises(aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is Code.UNAUTHENTICATED
        expected = (Code.UNAUTHENTICATED, "TOKEN_INVALID")
        assert await refused(client_of(channel).ask("x", metadata=holder)) == expected
        assert await client_of(channel).ask("x", metadata=other.metadata(Permission.READ)) == "x"


async def test_services_authenticate_to_each_other_with_tokens() -> None:
    server = server_of(whoami, gate=Keys().gate(), grace=0.1)
    async with started(server):
        signer = AUTHORITY.signer(Permission.READ, name="publisher")
        async with service_channel(server.address, Caller(signer.token)) as onward:
            assert await client_of(onward).ask("who") == "publisher"
        async with service_channel(server.address, Caller()) as onward:
            assert (await refused(client_of(onward).ask("who")))[0] is Code.UNAUTHENTICATED


# --- settings


def settings(**more: object) -> ServiceSettings:
    return ServiceSettings.model_validate({"database_url": "postgresql://"} | more)


def test_authentication_is_required_unless_turned_off() -> None:
    with pytest.raises(ValidationError, match="service_public_keys"):
        settings()
    assert settings(authentication="off").authentication == "off"
    with pytest.raises(ValueError, match="METERLINE_SERVICE_KEY"):
        auth.caller(settings(service_public_keys=AUTHORITY.public_keys), "ingest", SystemClock())
    configured = settings(**AUTHORITY.settings("ingest"))
    assert "PRIVATE" not in repr(configured)
    assert auth.caller(configured, "ingest", SystemClock()).token is not None
    with pytest.raises(ValidationError, match="not both"):
        settings(**AUTHORITY.settings("ingest"), service_public_keys_file="/somewhere")


async def test_api_keys_are_refused_without_a_verifier() -> None:
    gate = auth.gate(settings(**AUTHORITY.settings("ingest")), RULES, SystemClock(), None)
    async with started(server_of(gate=gate, grace=0.1)) as channel:
        expected = (Code.UNAUTHENTICATED, "TOKEN_INVALID")
        assert await refused(client_of(channel).ask("a", metadata=metadata(make().token))) == expected
