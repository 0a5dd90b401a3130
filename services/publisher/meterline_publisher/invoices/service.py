"""Reads stored invoices."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

from meterline.db.pool import Database
from meterline.errors import NotFoundError
from meterline.tenants import Tenant, TenantReplica

from meterline_publisher.invoices import store
from meterline_publisher.invoices.rules import Invoice, Line


class Invoices:
    """Reads stored invoices with their lines."""

    def __init__(self, database: Database, tenants: TenantReplica) -> None:
        self._database = database
        self._tenants = tenants

    async def get(self, slug: str, invoice_id: uuid.UUID) -> tuple[Tenant, Invoice, list[Line]]:
        """Raises NotFoundError."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            invoice = await store.by_id(connection, tenant.tenant_id, invoice_id)
            if invoice is None:
                raise NotFoundError("invoice", str(invoice_id))
            lines = await store.lines(connection, tenant.tenant_id, [invoice_id])
        return tenant, invoice, lines[invoice_id]

    async def page(
        self, slug: str, before: datetime, limit: int
    ) -> tuple[Tenant, Sequence[tuple[Invoice, list[Line]]]]:
        """At most `limit` invoices of periods that begin before then, newest first. Raises NotFoundError."""
        tenant = await self._tenants.get(slug)
        async with self._database.connection([tenant.tenant_id]) as connection:
            page = await store.page(connection, tenant.tenant_id, before, limit)
            lines = await store.lines(connection, tenant.tenant_id, [invoice.invoice_id for invoice in page])
        return tenant, [(invoice, lines[invoice.invoice_id]) for invoice in page]
