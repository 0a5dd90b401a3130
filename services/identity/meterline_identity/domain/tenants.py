"""A tenant, what it is made from, and what changes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from meterline.errors import AbortedError

from meterline_identity.domain import rules


@dataclass(frozen=True, slots=True)
class Onboarding:
    """What a caller states about a new tenant. Raises InvalidArgumentError for what breaks a rule."""

    slug: str
    display_name: str
    time_zone: str
    currency: str
    plan: str
    external_customer_id: str
    external_subscription_id: str
    close_lead_seconds: int

    def __post_init__(self) -> None:
        rules.slug("tenant_id", self.slug)
        rules.text("display_name", self.display_name, required=False)
        rules.time_zone("time_zone", self.time_zone)
        rules.currency("currency", self.currency)
        rules.text("plan", self.plan)
        rules.text("external_customer_id", self.external_customer_id)
        rules.text("external_subscription_id", self.external_subscription_id)
        rules.close_lead_seconds("close_lead_seconds", self.close_lead_seconds)

    def statement(self) -> dict[str, str | int]:
        """All that was stated, kept with the tenant, so that a repeated request is told from another one
        even after the tenant has changed."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tenant:
    """`tenant_id` is the number that keys carry, `slug` the name that the API calls tenant_id. Times are
    microseconds since the Unix epoch."""

    tenant_id: int
    slug: str
    display_name: str
    time_zone: str
    currency: str
    plan: str
    external_customer_id: str
    external_subscription_id: str
    close_lead_seconds: int
    active: bool
    version: int
    created_at_us: int
    updated_at_us: int

    def require_version(self, expected: int) -> None:
        """Raises AbortedError unless this is the version that the caller has seen; 0 stands for any."""
        if expected not in (0, self.version):
            raise AbortedError(f"tenant {self.slug!r} is at version {self.version}, not {expected}")


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update sets; None leaves as it is. Name, zone and currency never change, since windows and
    invoices that exist follow them. Raises InvalidArgumentError for what breaks a rule."""

    display_name: str | None = None
    plan: str | None = None
    external_customer_id: str | None = None
    external_subscription_id: str | None = None
    active: bool | None = None
    close_lead_seconds: int | None = None

    def __post_init__(self) -> None:
        if self.display_name is not None:
            rules.text("display_name", self.display_name, required=False)
        for field in ("plan", "external_customer_id", "external_subscription_id"):
            value = getattr(self, field)
            if value is not None:
                rules.text(field, value)
        if self.close_lead_seconds is not None:
            rules.close_lead_seconds("close_lead_seconds", self.close_lead_seconds)

    def apply(self, tenant: Tenant, now_us: int) -> Tenant:
        """The tenant's next version, or `tenant` itself when nothing would differ."""
        stated = {field: value for field, value in asdict(self).items() if value is not None}
        if all(getattr(tenant, field) == value for field, value in stated.items()):
            return tenant
        # A clock that was set back must not make a change look older than the one before.
        moment = max(now_us, tenant.updated_at_us)
        return replace(tenant, **stated, version=tenant.version + 1, updated_at_us=moment)
