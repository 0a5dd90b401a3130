"""Authenticates calls of untrusted clients, and restricts them to what their configuration permits."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from meterline.auth.credential_cache import CredentialCache
from meterline.auth.principals import Kind, Permission, Principal
from meterline.clock import Clock
from meterline.errors import InvalidArgumentError, UnauthenticatedError
from meterline.rpc.client import as_unavailable
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc
from meterline_protos.ingest.v1 import capture_pb2

from meterline_ingest.capture.parse import wire
from meterline_ingest.capture.rules import signatures
from meterline_ingest.capture.rules.signatures import SignedCall, SigningKey

MAX_CONFIG_BYTES: Final = 4_096
_ASK_SECONDS: Final = 2.0
# Malformed names of tenants and keys count as unknown ones.
_UNKNOWN: Final = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
_PERMISSIONS: Final = frozenset({Permission.CAPTURE})


class SigningKeys:
    """Keys by tenant and id, from identity. A revoked key still verifies for `fresh` seconds, and for `stale`
    at most."""

    def __init__(self, identity: aio.Channel, *, fresh: float, stale: float) -> None:
        self._stub: credentials_pb2_grpc.CredentialsServiceAsyncStub = (
            credentials_pb2_grpc.CredentialsServiceStub(identity)
        )
        self._cache: CredentialCache[tuple[str, str], SigningKey] = CredentialCache(
            "the verification of signatures", self._ask, fresh=fresh, stale=stale
        )

    async def find(self, tenant_id: str, key_id: str) -> SigningKey | None:
        """Raises UnavailableError when the key cannot be looked up."""
        return await self._cache.find((tenant_id, key_id))

    async def _ask(self, name: tuple[str, str]) -> SigningKey | None:
        tenant_id, key_id = name
        request = credentials_pb2.GetSigningKeysRequest(tenant_id=tenant_id, key_ids=[key_id])
        try:
            answer = await self._stub.GetSigningKeys(request, timeout=_ASK_SECONDS)
        except aio.AioRpcError as error:
            if error.code() in _UNKNOWN:
                return None
            raise as_unavailable("identity", error) from error
        for key in answer.keys:
            expires = key.expires_at.ToMicroseconds() if key.HasField("expires_at") else None
            return SigningKey(key.secret, expires, key.revoked)
        return None


class SignedCalls:
    """Turns signed calls into those of a caller with a tenant. Reads nothing of a body before its signature
    is verified."""

    def __init__(self, keys: SigningKeys, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def open(
        self, request: capture_pb2.ReportSignedRequest
    ) -> tuple[Principal, wire.Received[capture_pb2.ReportRequest]]:
        """The caller, and the request in the form of `wire`.

        Raises UnauthenticatedError, InvalidArgumentError and UnavailableError.
        """
        call = SignedCall(request.config, request.id, request.timestamp_ms, request.body, request.signature)
        config, expires_us = _config(call.config)
        now_us = self._clock.now_us()
        signatures.check_moment(call, now_us)
        if now_us >= expires_us:
            raise UnauthenticatedError("the configuration has expired", "CONFIG_EXPIRED")
        key = signatures.check_key(await self._keys.find(config.tenant_id, config.key_id), now_us)
        signatures.check_signature(call, key)
        body = _body(call.body)
        confine(body.message, config)
        name = f"{config.actor or config.source} ({config.key_id})"
        return Principal(name, Kind.SIGNED_CLIENT, config.tenant_id, _PERMISSIONS), body


def confine(body: Any, config: credentials_pb2.CaptureConfig) -> None:
    """Restricts a body to its configuration, and fills in what that fixes. Raises InvalidArgumentError."""
    if body.tenant_id not in ("", config.tenant_id):
        raise _out_of_scope("tenant_id", "tenant")
    if body.source not in ("", config.source):
        raise _out_of_scope("source", "source")
    body.tenant_id, body.source = config.tenant_id, config.source
    if body.HasField("columns"):
        _confine_columns(body.columns, config)
    else:
        for at, event in enumerate(body.rows.events):
            _confine_row(event, f"rows.events[{at}]", config)


def _confine_columns(columns: Any, config: credentials_pb2.CaptureConfig) -> None:
    if set(columns.tenants) - {config.tenant_id}:
        raise _out_of_scope("columns.tenants", "tenant")
    if set(columns.types) - set(config.types):
        raise _out_of_scope("columns.types", "type")
    if config.actor:
        if set(columns.subjects) - {"", config.actor}:
            raise _out_of_scope("columns.subjects", "subject")
        # As many entries as before, so that a valid index stays valid, and an invalid one invalid.
        actors = [config.actor] * max(1, len(columns.subjects))
        del columns.subjects[:]
        columns.subjects.extend(actors)


def _confine_row(event: Any, field: str, config: credentials_pb2.CaptureConfig) -> None:
    if event.tenant_id not in ("", config.tenant_id):
        raise _out_of_scope(f"{field}.tenant_id", "tenant")
    if event.type not in config.types:
        raise _out_of_scope(f"{field}.type", "type")
    if config.actor:
        if event.subject not in ("", config.actor):
            raise _out_of_scope(f"{field}.subject", "subject")
        event.subject = config.actor


def _out_of_scope(field: str, what: str) -> InvalidArgumentError:
    reason = f"{what.upper()}_OUT_OF_SCOPE"
    return InvalidArgumentError(f"body.{field}", f"a {what} of the configuration", reason)


def _config(serialised: bytes) -> tuple[credentials_pb2.CaptureConfig, int]:
    """A configuration, and when it expires in microseconds."""
    try:
        if not 0 < len(serialised) <= MAX_CONFIG_BYTES:
            raise DecodeError("no configuration has this size")
        config = credentials_pb2.CaptureConfig.FromString(serialised)
        return config, config.expires_at.ToMicroseconds()
    except (DecodeError, ValueError):
        # An impossible time is as invalid as bytes that cannot be read.
        raise UnauthenticatedError("config: as it was issued", "CONFIG_INVALID") from None


def _body(serialised: bytes) -> wire.Received[capture_pb2.ReportRequest]:
    try:
        return wire.read_report(serialised)
    except InvalidArgumentError as error:
        if error.field != "request":
            raise
        raise InvalidArgumentError("body", "a serialised ReportRequest", "BODY_INVALID") from None
