"""A tenant, its onboarding, and its changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

from meterline.calendar import day_of
from meterline.clock import to_datetime
from meterline.errors import AbortedError, FailedPreconditionError

from meterline_identity.tenants.rules import fields


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
    billed_from: date | None = None
    billing_provider: str = ""

    def __post_init__(self) -> None:
        fields.slug("tenant_id", self.slug)
        fields.text("display_name", self.display_name, required=False)
        fields.time_zone("time_zone", self.time_zone)
        fields.currency("currency", self.currency)
        fields.plan("plan", self.plan)
        # Both are empty for a tenant that is only measured, or is billed later.
        fields.external_id("external_customer_id", self.external_customer_id)
        fields.external_id("external_subscription_id", self.external_subscription_id)
        fields.close_lead_seconds("close_lead_seconds", self.close_lead_seconds)
        fields.billing_provider("billing_provider", self.billing_provider)

    def statement(self) -> dict[str, str | int]:
        """All that was stated. It is stored with the tenant, to distinguish a repeated request from another
        one even after the tenant has changed."""
        stated: dict[str, str | int] = asdict(self)
        # Left out when they were not stated, as in statements stored before these fields existed.
        del stated["billed_from"]
        if not self.billing_provider:
            del stated["billing_provider"]
        return stated if self.billed_from is None else stated | {"billed_from": self.billed_from.isoformat()}

    def first_billed_day(self, now: datetime) -> date:
        """The day that was stated, or the first of the present month in the tenant's time zone."""
        return self.billed_from or first_of_month(now, self.time_zone)


def first_of_month(at: datetime, time_zone: str) -> date:
    """The first day of the month that `at` lies in, by the clocks of this zone."""
    return day_of(at, ZoneInfo(time_zone)).replace(day=1)


@dataclass(frozen=True, slots=True)
class Tenant:
    """`tenant_id` is the number that keys carry, `slug` the name that the API calls tenant_id. Times are
    microseconds since the Unix epoch. `billed_from` is the first day that is billed; None: all are.
    `billing_provider` is empty for a tenant that chose none."""

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
    billed_from: date | None
    billing_provider: str
    created_at_us: int
    updated_at_us: int

    def require_version(self, expected: int) -> None:
        """Raises AbortedError unless this is the version that the caller has seen; 0 means any."""
        if expected not in (0, self.version):
            raise AbortedError(f"tenant {self.slug!r} is at version {self.version}, not {expected}")


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update sets; None keeps a value. Name, zone and currency never change, since existing windows
    and invoices depend on them. Raises InvalidArgumentError for what breaks a rule."""

    display_name: str | None = None
    plan: str | None = None
    external_customer_id: str | None = None
    external_subscription_id: str | None = None
    active: bool | None = None
    close_lead_seconds: int | None = None
    billed_from: date | None = None
    billing_provider: str | None = None

    def __post_init__(self) -> None:
        if self.display_name is not None:
            fields.text("display_name", self.display_name, required=False)
        if self.plan is not None:
            fields.plan("plan", self.plan)
        for field in ("external_customer_id", "external_subscription_id"):
            value = getattr(self, field)
            if value is not None:
                fields.external_id(field, value)
        if self.close_lead_seconds is not None:
            fields.close_lead_seconds("close_lead_seconds", self.close_lead_seconds)
        if self.billing_provider is not None:
            fields.billing_provider("billing_provider", self.billing_provider)

    def apply(self, tenant: Tenant, now_us: int) -> Tenant:
        """The tenant's next version, or `tenant` itself when nothing would differ. Raises
        FailedPreconditionError for a first billed day that would open periods of the past."""
        stated = {field: value for field, value in asdict(self).items() if value is not None}
        if all(getattr(tenant, field) == value for field, value in stated.items()):
            return tenant
        if self.billed_from is not None:
            _require_not_too_early(tenant, self.billed_from)
        # A clock that was set back must not make a change look older than the previous one.
        moment = max(now_us, tenant.updated_at_us)
        return replace(tenant, **stated, version=tenant.version + 1, updated_at_us=moment)


def _require_not_too_early(tenant: Tenant, day: date) -> None:
    earliest = first_of_month(to_datetime(tenant.created_at_us), tenant.time_zone)
    if day < earliest and (tenant.billed_from is not None and day < tenant.billed_from):
        raise FailedPreconditionError(
            "billed_from", f"must not be before {min(earliest, tenant.billed_from)}", "BILLED_FROM_TOO_EARLY"
        )
