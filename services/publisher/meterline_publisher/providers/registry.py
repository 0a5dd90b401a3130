"""The billing providers that this installation is configured for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meterline.telemetry import metrics

from meterline_publisher.providers.none import NoProvider
from meterline_publisher.providers.port import BillingProvider


class Providers:
    """Providers by the name in their capabilities. Starts and stops all of them.

    configured: at most one for each name
    default: the name of the provider of tenants that chose none; it need not be configured
    """

    def __init__(self, configured: Iterable[BillingProvider], default: str) -> None:
        self._by_name = {provider.capabilities.name: provider for provider in configured}
        self._default = default

    def __iter__(self) -> Iterator[BillingProvider]:
        """Those that are configured."""
        return iter(self._by_name.values())

    @property
    def bills(self) -> bool:
        """Whether there is anybody to send to."""
        return bool(self._by_name)

    @property
    def billed(self) -> frozenset[str]:
        """The values of `Tenant.billing_provider` whose provider is configured."""
        return frozenset(self._by_name) | ({""} if self._default in self._by_name else set())

    def name(self, chosen: str) -> str:
        """What rows of the ledger call the provider of a tenant that chose this; empty: that chose none."""
        return chosen or self._default

    def of(self, chosen: str) -> BillingProvider:
        """The provider of a tenant that chose this name, and never another; empty: that chose none.

        One that is not configured is a NoProvider, which refuses whatever needs a provider.
        """
        name = self.name(chosen)
        return self._by_name.get(name) or NoProvider("" if name == self._default else name)

    async def start(self) -> None:
        metrics.BILLING_PROVIDERS.set(len(self._by_name))
        for provider in self._by_name.values() or [NoProvider()]:
            await provider.start()

    async def stop(self) -> None:
        for provider in reversed(self._by_name.values()):
            await provider.stop()
