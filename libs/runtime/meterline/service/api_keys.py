"""API keys, verified by identity."""

from __future__ import annotations

from grpc import aio
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc

from meterline.auth.api_keys import Verify
from meterline.auth.principals import Kind, Permission, Principal
from meterline.rpc.client import as_unavailable

# Short, since a known key holds on meanwhile and an unknown one has its caller waiting.
ASK_SECONDS = 2.0
_KNOWN = frozenset(Permission)


def verifier(identity: aio.Channel) -> Verify:
    """Asks identity at the end of this channel. Raises UnavailableError when it does not answer."""
    stub: credentials_pb2_grpc.CredentialsServiceAsyncStub = credentials_pb2_grpc.CredentialsServiceStub(
        identity
    )

    async def verify(key_id: str, digest: bytes) -> Principal | None:
        request = credentials_pb2.VerifyApiKeyRequest(key_id=key_id, secret_digest=digest)
        try:
            answer = await stub.VerifyApiKey(request, timeout=ASK_SECONDS)
        except aio.AioRpcError as error:
            raise as_unavailable("identity", error) from error
        return to_principal(answer) if answer.valid else None

    return verify


def to_principal(answer: credentials_pb2.VerifyApiKeyResponse) -> Principal:
    # A permission that this version does not know yet guards nothing here.
    permissions = frozenset(Permission(text) for text in answer.permissions if text in _KNOWN)
    return Principal(answer.name, Kind.API_KEY, answer.tenant_id or None, permissions)
