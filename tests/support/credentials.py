"""Identity and ingest in the test's own process, with required authentication as in production."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from meterline.auth.principals import Permission
from meterline.clock import SystemClock
from meterline.ids import new_id
from meterline_dev.channels import channel as channel_with_token
from meterline_dev.servers import NatsServer
from meterline_identity.main import Identity
from meterline_identity.settings import IdentitySettings
from meterline_ingest.capture.rules.signatures import signature
from meterline_ingest.main import Ingest
from meterline_ingest.settings import IngestSettings
from meterline_protos.identity.v1 import (
    credentials_pb2,
    credentials_pb2_grpc,
    tenants_pb2,
    tenants_pb2_grpc,
)
from meterline_protos.ingest.v1 import (
    capture_pb2,
    capture_pb2_grpc,
    event_types_pb2,
    event_types_pb2_grpc,
)

from tests.support.bus import delete_streams
from tests.support.callers import Authority
from tests.support.calls import status_of
from tests.support.capture import Sample, rows
from tests.support.databases import Databases, TestDatabase
from tests.support.services import running, settings_for

TYPE = "api.request"


@dataclass
class SignedClient:
    """An untrusted client that has only the answer of IssueCaptureConfig."""

    config: bytes
    secret: bytes = field(repr=False)
    key_id: str

    def request(
        self, body: capture_pb2.ReportRequest | bytes, *, id: str = "", timestamp_ms: int | None = None
    ) -> capture_pb2.ReportSignedRequest:
        """A signed call by the protocol, signed now unless another moment is given."""
        raw = body if isinstance(body, bytes) else body.SerializeToString()
        name = id or str(new_id())
        moment = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        return capture_pb2.ReportSignedRequest(
            config=self.config,
            id=name,
            timestamp_ms=moment,
            body=raw,
            signature=signature(self.secret, name, moment, raw),
        )


@dataclass
class Operator:
    """Calls of an operator with all grantable permissions; the channels add the token."""

    identity_channel: aio.Channel
    ingest_channel: aio.Channel
    ingest_address: str

    @property
    def credentials(self) -> credentials_pb2_grpc.CredentialsServiceAsyncStub:
        return credentials_pb2_grpc.CredentialsServiceStub(self.identity_channel)

    @property
    def capture(self) -> capture_pb2_grpc.CaptureServiceAsyncStub:
        return capture_pb2_grpc.CaptureServiceStub(self.ingest_channel)

    async def onboard(self, tenant: str) -> None:
        request = tenants_pb2.OnboardTenantRequest(
            tenant_id=tenant,
            time_zone="America/New_York",
            currency="USD",
            plan="basic",
            external_customer_id=f"cus_{tenant}",
            external_subscription_id=f"sub_{tenant}",
        )
        await tenants_pb2_grpc.TenantsServiceStub(self.identity_channel).OnboardTenant(request)

    async def put_type(self, name: str = TYPE) -> None:
        definition = event_types_pb2.EventType(
            name=name,
            quantities=[event_types_pb2.QuantityDefinition(name="units", scale=2)],
            dimensions=[event_types_pb2.DimensionDefinition(name="region")],
        )
        await event_types_pb2_grpc.EventTypesServiceStub(self.ingest_channel).PutEventType(
            event_types_pb2.PutEventTypeRequest(event_type=definition)
        )

    async def archive_type(self, name: str = TYPE) -> None:
        await event_types_pb2_grpc.EventTypesServiceStub(self.ingest_channel).ArchiveEventType(
            event_types_pb2.ArchiveEventTypeRequest(name=name)
        )

    async def api_key(self, tenant: str, *permissions: Permission) -> credentials_pb2.CreateApiKeyResponse:
        answer: credentials_pb2.CreateApiKeyResponse = await self.credentials.CreateApiKey(
            credentials_pb2.CreateApiKeyRequest(tenant_id=tenant, name="a key", permissions=permissions)
        )
        return answer

    async def rotate(self, tenant: str, grace_seconds: int = 3_600) -> credentials_pb2.SigningKey:
        answer = await self.credentials.RotateSigningKey(
            credentials_pb2.RotateSigningKeyRequest(tenant_id=tenant, grace_seconds=grace_seconds)
        )
        return answer.signing_key

    async def revoke(self, tenant: str, key_id: str) -> credentials_pb2.SigningKey:
        answer = await self.credentials.RevokeSigningKey(
            credentials_pb2.RevokeSigningKeyRequest(tenant_id=tenant, key_id=key_id)
        )
        return answer.signing_key

    async def client(
        self,
        tenant: str,
        *,
        actor: str = "",
        types: Sequence[str] = (TYPE,),
        source: str = "test",
        lifetime_seconds: int = 0,
    ) -> SignedClient:
        """A client with a newly issued configuration."""
        answer = await self.credentials.IssueCaptureConfig(
            credentials_pb2.IssueCaptureConfigRequest(
                tenant_id=tenant, actor=actor, types=types, source=source, lifetime_seconds=lifetime_seconds
            )
        )
        return SignedClient(answer.config, answer.client_secret, answer.key_id)

    async def report_signed(self, request: capture_pb2.ReportSignedRequest) -> capture_pb2.ReportResponse:
        """Reports like a client without a token."""
        async with aio.insecure_channel(self.ingest_address) as channel:
            stub: Any = capture_pb2_grpc.CaptureServiceStub(channel)
            answer: capture_pb2.ReportSignedResponse = await stub.ReportSigned(request, timeout=20)
            return answer.report


@dataclass
class Guarded(Operator):
    """Both services, running in this process."""

    authority: Authority
    identity_address: str
    database: TestDatabase


@asynccontextmanager
async def module_guarded(databases: Databases, broker: NatsServer) -> AsyncIterator[Guarded]:
    """Both services for the tests of a module, on the emptied broker and a database of their own."""
    with databases.lent("identity", "ingest") as database:
        broker.start()
        await delete_streams(broker.url)
        async with guarded(database, broker) as both:
            yield both


@asynccontextmanager
async def guarded(database: TestDatabase, broker: NatsServer, **settings: object) -> AsyncIterator[Guarded]:
    """Starts identity and ingest; `settings` are for both."""
    authority = Authority()

    def settings_of(service: str) -> dict[str, object]:
        return settings_for(service, database, broker) | authority.settings(service) | settings

    identity = Identity(IdentitySettings.model_validate(settings_of("identity")), SystemClock())
    async with running(identity):
        known = settings_of("ingest") | {"identity_address": identity.server.address}
        ingest = Ingest(IngestSettings.model_validate(known), SystemClock())
        signer = authority.signer()
        async with (
            running(ingest),
            channel_with_token(identity.server.address, signer.token) as to_identity,
            channel_with_token(ingest.server.address, signer.token) as to_ingest,
        ):
            yield Guarded(
                to_identity,
                to_ingest,
                ingest.server.address,
                authority,
                identity.server.address,
                database,
            )


def refusal(error: aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """The status and the stable reason of a failed call."""
    info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    reason = ""
    for detail in status_of(error).details:
        if detail.Unpack(violations) and violations.field_violations:
            return error.code(), violations.field_violations[0].reason
        if detail.Unpack(info):
            reason = info.reason
    return error.code(), reason


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """The status and the reason with which an awaitable call fails."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


def signed_rows(client: SignedClient, *samples: Sample) -> capture_pb2.ReportSignedRequest:
    """A signed call with these events; its tenant and source are the configuration's."""
    return client.request(rows(*samples, tenant_id="", source=""))
