"""TenantsService."""

from __future__ import annotations

from typing import Any, Final

from grpc import aio
from meterline.clock import to_datetime
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields, paging
from meterline.slugs import is_slug
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from meterline_identity.tenants.rules import fields as rules
from meterline_identity.tenants.rules.tenants import Changes, Onboarding, Tenant
from meterline_identity.tenants.service import Tenants

Context = aio.ServicerContext[Any, Any]

MAX_NAMES: Final = 1_000


class TenantsServicer(tenants_pb2_grpc.TenantsServiceServicer):
    """See protos/meterline/identity/v1/tenants.proto. Failures become statuses in the server's wrapper."""

    def __init__(self, handlers: Tenants) -> None:
        self._handlers = handlers

    async def OnboardTenant(
        self, request: tenants_pb2.OnboardTenantRequest, context: Context
    ) -> tenants_pb2.OnboardTenantResponse:
        onboarding = Onboarding(
            slug=request.tenant_id,
            display_name=request.display_name,
            time_zone=request.time_zone,
            currency=request.currency,
            plan=request.plan,
            external_customer_id=request.external_customer_id,
            external_subscription_id=request.external_subscription_id,
            close_lead_seconds=(
                request.close_lead_seconds
                if request.HasField("close_lead_seconds")
                else rules.DEFAULT_CLOSE_LEAD_SECONDS
            ),
            billed_from=fields.day("billed_from", request.billed_from) if request.billed_from else None,
            billing_provider=request.billing_provider,
        )
        tenant, created = await self._handlers.onboard(onboarding)
        return tenants_pb2.OnboardTenantResponse(tenant=_to_proto(tenant), created=created)

    async def GetTenant(
        self, request: tenants_pb2.GetTenantRequest, context: Context
    ) -> tenants_pb2.GetTenantResponse:
        tenant = await self._handlers.get(rules.slug("tenant_id", request.tenant_id))
        return tenants_pb2.GetTenantResponse(tenant=_to_proto(tenant))

    async def BatchGetTenants(
        self, request: tenants_pb2.BatchGetTenantsRequest, context: Context
    ) -> tenants_pb2.BatchGetTenantsResponse:
        if len(request.tenant_ids) > MAX_NAMES:
            raise InvalidArgumentError("tenant_ids", f"at most {MAX_NAMES}")
        tenants = await self._handlers.find([*filter(is_slug, request.tenant_ids)])
        return tenants_pb2.BatchGetTenantsResponse(tenants=map(_to_proto, tenants))

    async def ListTenants(
        self, request: tenants_pb2.ListTenantsRequest, context: Context
    ) -> tenants_pb2.ListTenantsResponse:
        limit = paging.size(request.page_size)
        key = paging.key(request.page_token, paging.int4)
        # One more than asked for shows whether there is a next page.
        tenants = await self._handlers.list(key[0] if key else 0, limit + 1)
        page = tenants[:limit]
        return tenants_pb2.ListTenantsResponse(
            tenants=[_to_proto(tenant) for tenant in page],
            next_page_token=paging.token(page[-1].tenant_id) if len(tenants) > limit else "",
        )

    async def UpdateTenant(
        self, request: tenants_pb2.UpdateTenantRequest, context: Context
    ) -> tenants_pb2.UpdateTenantResponse:
        tenant = await self._handlers.update(
            rules.slug("tenant_id", request.tenant_id),
            rules.expected_version("expected_version", request.expected_version),
            _to_changes(request),
        )
        return tenants_pb2.UpdateTenantResponse(tenant=_to_proto(tenant))


def _to_changes(request: tenants_pb2.UpdateTenantRequest) -> Changes:
    return Changes(
        display_name=request.display_name if request.HasField("display_name") else None,
        plan=request.plan if request.HasField("plan") else None,
        external_customer_id=(
            request.external_customer_id if request.HasField("external_customer_id") else None
        ),
        external_subscription_id=(
            request.external_subscription_id if request.HasField("external_subscription_id") else None
        ),
        active=request.active if request.HasField("active") else None,
        close_lead_seconds=request.close_lead_seconds if request.HasField("close_lead_seconds") else None,
        billed_from=(
            fields.day("billed_from", request.billed_from) if request.HasField("billed_from") else None
        ),
        billing_provider=request.billing_provider if request.HasField("billing_provider") else None,
    )


def _to_proto(tenant: Tenant) -> tenants_pb2.Tenant:
    message = tenants_pb2.Tenant(
        tenant_id=tenant.slug,
        display_name=tenant.display_name,
        time_zone=tenant.time_zone,
        currency=tenant.currency,
        plan=tenant.plan,
        external_customer_id=tenant.external_customer_id,
        external_subscription_id=tenant.external_subscription_id,
        active=tenant.active,
        close_lead_seconds=tenant.close_lead_seconds,
        version=tenant.version,
        number=tenant.tenant_id,
        billed_from=tenant.billed_from.isoformat() if tenant.billed_from else "",
        billing_provider=tenant.billing_provider,
    )
    message.created_at.FromDatetime(to_datetime(tenant.created_at_us))
    message.updated_at.FromDatetime(to_datetime(tenant.updated_at_us))
    return message
