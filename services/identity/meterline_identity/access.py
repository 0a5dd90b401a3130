"""What each call demands of its caller."""

from __future__ import annotations

from typing import Final

from meterline.auth.principals import Permission
from meterline.auth.rules import Reach, Rule, Rules

_TENANTS: Final = "meterline.identity.v1.TenantsService"
_CREDENTIALS: Final = "meterline.identity.v1.CredentialsService"

RULES: Final[Rules] = {
    # A tenant must not change its own plan, or who pays.
    f"{_TENANTS}/OnboardTenant": Rule(Permission.TENANTS, Reach.EVERYBODY),
    f"{_TENANTS}/UpdateTenant": Rule(Permission.TENANTS, Reach.EVERYBODY),
    f"{_TENANTS}/GetTenant": Rule(Permission.READ),
    f"{_TENANTS}/BatchGetTenants": Rule(Permission.INTERNAL, Reach.EVERYBODY, judged_singly=("tenant_ids",)),
    f"{_TENANTS}/ListTenants": Rule(Permission.READ),
    f"{_CREDENTIALS}/CreateApiKey": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/ListApiKeys": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/RevokeApiKey": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/RotateSigningKey": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/ListSigningKeys": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/RevokeSigningKey": Rule(Permission.CREDENTIALS),
    f"{_CREDENTIALS}/IssueCaptureConfig": Rule(Permission.ISSUE),
    f"{_CREDENTIALS}/VerifyApiKey": Rule(Permission.INTERNAL, Reach.EVERYBODY),
    f"{_CREDENTIALS}/GetSigningKeys": Rule(Permission.INTERNAL, Reach.EVERYBODY),
}
