"""Two providers in memory, and tenants that choose one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from meterline_protos.events.v1 import events_pb2
from meterline_publisher.providers.capabilities import Capabilities
from meterline_publisher.providers.port import ExternalInvoice

from tests.integration.publisher.catalogue import PER_UNIT, Priced
from tests.integration.publisher.conftest import StartPublisher
from tests.integration.publisher.test_billing_gaps import END
from tests.integration.publisher.world import Api, World
from tests.support.fake_billing import FakeBilling
from tests.support.fake_mesh import timestamp
from tests.support.polling import eventually


class SmallBilling(FakeBilling):
    """Accepts up to three digits, and bills whole units of a currency."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, max_digits=3)

    def decimals(self, currency: str) -> int:
        return 0


@dataclass
class Two:
    """Two providers with the same meter."""

    world: World
    first: FakeBilling
    other: SmallBilling

    async def choose(
        self, slug: str, number: int, provider: str | None, customer: str, version: int = 1
    ) -> None:
        """Makes a tenant, or its next version, known to the publisher."""
        if slug not in self.world.mesh.tenants:
            self.world.mesh.add_tenant(slug, number, "UTC")
        await self.world.deliver(
            "tenants.changed",
            events_pb2.TenantChanged(
                tenant_id=number,
                slug=slug,
                version=version,
                time_zone="UTC",
                currency="USD",
                plan="gold",
                external_customer_id=customer,
                active=True,
                close_lead_seconds=3600,
                billing_provider=provider,
                changed_at=timestamp(datetime(2026, 1, 1, tzinfo=UTC)),
            ),
        )
        await eventually(
            lambda: self.world.rows(
                "SELECT FROM tenants WHERE tenant_id = %s AND version = %s", number, version
            )
        )

    async def reloaded(self, start: StartPublisher, **more: object) -> Api:
        """Starts another replica, which has no tenants in its cache."""
        return await start(self.first, self.other, **more)

    def finish(self, billing: FakeBilling, customer: str, total: str) -> None:
        """Stores a final invoice of March at the provider."""
        billing.invoices[(customer, END)] = ExternalInvoice("in_1", True, False, "USD", Decimal(total))


def two_providers(world: World) -> Two:
    return Two(
        world, FakeBilling(world.now, meters={"event"}), SmallBilling(world.now, "other", meters={"event"})
    )


def sent(billing: FakeBilling) -> list[tuple[str, int]]:
    return [(kept.event.customer, int(kept.event.value)) for kept in billing.kept]


async def priced(api: Api) -> None:
    await api.put("gold", Priced("calls", PER_UNIT), "event")
