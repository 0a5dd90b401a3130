"""Every RPC of every service gives the same answer to a malformed tenant name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc import aio
from meterline.slugs import SLUG_RULE
from meterline_dev import channels
from meterline_dev.mesh import Mesh

from tests.fault.foreign_requests import Rpc, all_rpcs
from tests.support.calls import status_of
from tests.support.credentials import refusal

pytestmark = [pytest.mark.req("K1", "S1"), pytest.mark.timeout(300), pytest.mark.xdist_group("mesh")]

WIDE = "\N{FULLWIDTH LATIN SMALL LETTER A}cme"
MALFORMED = ("Acme", "acme_1", "-acme", "acme-", "a" * 64, "a b", "acme\n", WIDE, "../acme")
# RPCs that answer each event with its own outcome.
SINGLY = {"ingest.v1.CaptureService/Report", "ingest.v1.CaptureService/Stream"}
RPCS = [rpc for rpc in all_rpcs() if rpc.names_a_tenant and rpc.name not in SINGLY]

# RPCs that only services may call.
INTERNAL = {"aggregate.v1.UsageService/PreviewChanges", "identity.v1.CredentialsService/GetSigningKeys"}

Channels = dict[tuple[str, bool], aio.Channel]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def open_to(mesh: Mesh) -> AsyncIterator[Channels]:
    """Channels by service name and by whether the caller is a service; otherwise it is the operator."""
    tokens = {False: mesh.token, True: mesh.keys.service_signer("ingest").token}
    async with AsyncExitStack() as stack:
        yield {
            (name, internal): await stack.enter_async_context(channels.channel(mesh.address(name), token))
            for name in ("identity", "ingest", "aggregate", "publisher")
            for internal, token in tokens.items()
        }


async def failure(channel: aio.Channel, rpc: Rpc, tenant: str) -> aio.AioRpcError:
    """The error of a call whose only set field names `tenant`."""
    request = rpc.request()
    request.tenant_id = tenant  # type: ignore[attr-defined]
    path = f"/{rpc.method.containing_service.full_name}/{rpc.method.name}"
    sent = request.SerializeToString()
    # Requests and answers are raw bytes.
    anyhow: Any = channel
    if rpc.method.server_streaming:
        asked = anyhow.unary_stream(path)(sent, timeout=10).read()
    else:
        asked = anyhow.unary_unary(path)(sent, timeout=10)
    with pytest.raises(aio.AioRpcError) as caught:
        await asked
    return caught.value


def answer(error: aio.AioRpcError) -> tuple[grpc.StatusCode, str, str, list[tuple[str, str]]]:
    """Status, reason, message, and the violated fields with their rules."""
    found = error_details_pb2.BadRequest()
    fields = [
        (violation.field, violation.description)
        for detail in status_of(error).details
        if detail.Unpack(found)
        for violation in found.field_violations
    ]
    return *refusal(error), error.details() or "", fields


def test_descriptors_list_rpcs_with_a_tenant() -> None:
    assert len(RPCS) > 40
    assert {rpc.service for rpc in RPCS} == {"identity", "ingest", "aggregate", "publisher"}
    assert not any(rpc.method.client_streaming for rpc in RPCS)


@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("rpc", RPCS, ids=[rpc.name for rpc in RPCS])
async def test_malformed_tenant_name_has_one_answer(open_to: Channels, rpc: Rpc) -> None:
    channel = open_to[rpc.service, rpc.name in INTERNAL]
    for tenant in MALFORMED:
        assert answer(await failure(channel, rpc, tenant)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "NAME_INVALID",
            f"tenant_id: {SLUG_RULE}",
            [("tenant_id", SLUG_RULE)],
        )
