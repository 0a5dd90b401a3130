"""CredentialsService."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.clock import EPOCH
from meterline.errors import InvalidArgumentError
from meterline.rpc import paging
from meterline_protos.identity.v1 import credentials_pb2, credentials_pb2_grpc

from meterline_identity.credentials.api_keys import ApiKeys
from meterline_identity.credentials.rules import capture_configs, signing_keys
from meterline_identity.credentials.rules.api_keys import ApiKey
from meterline_identity.credentials.rules.capture_configs import Scope
from meterline_identity.credentials.rules.signing_keys import SigningKey
from meterline_identity.credentials.signing_keys import SigningKeys
from meterline_identity.tenants.rules import fields

MAX_KEY_IDS = 100

Context = aio.ServicerContext[Any, Any]


class CredentialsServicer(credentials_pb2_grpc.CredentialsServiceServicer):
    def __init__(self, api_keys: ApiKeys, keys: SigningKeys) -> None:
        self._api_keys = api_keys
        self._signing_keys = keys

    async def CreateApiKey(
        self, request: credentials_pb2.CreateApiKeyRequest, context: Context
    ) -> credentials_pb2.CreateApiKeyResponse:
        key, token = await self._api_keys.create(
            _tenant_or_all(request.tenant_id), request.name, request.permissions
        )
        return credentials_pb2.CreateApiKeyResponse(api_key=_api_key(key), token=token)

    async def ListApiKeys(
        self, request: credentials_pb2.ListApiKeysRequest, context: Context
    ) -> credentials_pb2.ListApiKeysResponse:
        limit = paging.size(request.page_size)
        after = paging.key(request.page_token, paging.instant, paging.text) or (EPOCH, "")
        found = await self._api_keys.list(_tenant_or_all(request.tenant_id), after, limit + 1)
        page = found[:limit]
        more = len(found) > limit
        return credentials_pb2.ListApiKeysResponse(
            api_keys=[_api_key(each) for each in page],
            next_page_token=paging.token(page[-1].created_at_us, page[-1].key_id) if more else "",
        )

    async def RevokeApiKey(
        self, request: credentials_pb2.RevokeApiKeyRequest, context: Context
    ) -> credentials_pb2.RevokeApiKeyResponse:
        key = await self._api_keys.revoke(_tenant_or_all(request.tenant_id), _key_id(request.key_id))
        return credentials_pb2.RevokeApiKeyResponse(api_key=_api_key(key))

    async def VerifyApiKey(
        self, request: credentials_pb2.VerifyApiKeyRequest, context: Context
    ) -> credentials_pb2.VerifyApiKeyResponse:
        principal = await self._api_keys.verify(_key_id(request.key_id), request.secret_digest)
        if principal is None:
            return credentials_pb2.VerifyApiKeyResponse(valid=False)
        return credentials_pb2.VerifyApiKeyResponse(
            valid=True,
            tenant_id=principal.tenant or "",
            name=principal.name,
            permissions=sorted(principal.permissions),
        )

    async def RotateSigningKey(
        self, request: credentials_pb2.RotateSigningKeyRequest, context: Context
    ) -> credentials_pb2.RotateSigningKeyResponse:
        asked = request.grace_seconds if request.HasField("grace_seconds") else None
        grace = signing_keys.DEFAULT_GRACE_SECONDS if asked is None else asked
        key = await self._signing_keys.rotate(
            fields.slug("tenant_id", request.tenant_id), signing_keys.grace_seconds("grace_seconds", grace)
        )
        return credentials_pb2.RotateSigningKeyResponse(signing_key=_signing_key(key))

    async def ListSigningKeys(
        self, request: credentials_pb2.ListSigningKeysRequest, context: Context
    ) -> credentials_pb2.ListSigningKeysResponse:
        keys = await self._signing_keys.latest(fields.slug("tenant_id", request.tenant_id))
        return credentials_pb2.ListSigningKeysResponse(signing_keys=[_signing_key(key) for key in keys])

    async def RevokeSigningKey(
        self, request: credentials_pb2.RevokeSigningKeyRequest, context: Context
    ) -> credentials_pb2.RevokeSigningKeyResponse:
        key = await self._signing_keys.revoke(
            fields.slug("tenant_id", request.tenant_id), _key_id(request.key_id)
        )
        return credentials_pb2.RevokeSigningKeyResponse(signing_key=_signing_key(key))

    async def GetSigningKeys(
        self, request: credentials_pb2.GetSigningKeysRequest, context: Context
    ) -> credentials_pb2.GetSigningKeysResponse:
        if not 1 <= len(request.key_ids) <= MAX_KEY_IDS:
            raise InvalidArgumentError("key_ids", f"must be 1 to {MAX_KEY_IDS}")
        slug = fields.slug("tenant_id", request.tenant_id)
        found = await self._signing_keys.get(slug, [_key_id(each) for each in request.key_ids])
        return credentials_pb2.GetSigningKeysResponse(
            keys=[_verification_key(key, secret) for key, secret in found]
        )

    async def IssueCaptureConfig(
        self, request: credentials_pb2.IssueCaptureConfigRequest, context: Context
    ) -> credentials_pb2.IssueCaptureConfigResponse:
        scope = Scope(
            request.actor,
            tuple(request.types),
            request.source,
            request.lifetime_seconds or capture_configs.DEFAULT_LIFETIME_SECONDS,
        )
        slug = fields.slug("tenant_id", request.tenant_id)
        config, serialised, secret = await self._signing_keys.issue(slug, scope)
        return credentials_pb2.IssueCaptureConfigResponse(
            config=serialised, client_secret=secret, key_id=config.key_id, expires_at=config.expires_at
        )


def _tenant_or_all(value: str) -> str:
    return fields.slug("tenant_id", value) if value else ""


def _key_id(value: str) -> str:
    """Accepts any text that can be looked up; the form of key ids is not checked here."""
    return fields.text("key_id", value)


def _api_key(key: ApiKey) -> credentials_pb2.ApiKey:
    return credentials_pb2.ApiKey(
        key_id=key.key_id,
        tenant_id=key.slug,
        name=key.name,
        permissions=sorted(key.permissions),
        created_at=_timestamp(key.created_at_us),
        created_by=key.created_by,
        revoked_at=_timestamp(key.revoked_at_us),
        revoked_by=key.revoked_by,
    )


def _signing_key(key: SigningKey) -> credentials_pb2.SigningKey:
    return credentials_pb2.SigningKey(
        key_id=key.key_id,
        created_at=_timestamp(key.created_at_us),
        created_by=key.created_by,
        expires_at=_timestamp(key.expires_at_us),
        revoked_at=_timestamp(key.revoked_at_us),
        revoked_by=key.revoked_by,
    )


def _verification_key(key: SigningKey, secret: bytes) -> credentials_pb2.VerificationKey:
    return credentials_pb2.VerificationKey(
        key_id=key.key_id,
        secret=secret,
        expires_at=_timestamp(key.expires_at_us),
        revoked=key.revoked_at_us is not None,
    )


def _timestamp(us: int | None) -> Timestamp | None:
    if us is None:
        return None
    stamp = Timestamp()
    stamp.FromMicroseconds(us)
    return stamp
