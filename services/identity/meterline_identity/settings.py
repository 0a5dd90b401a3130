"""What identity can be told."""

from __future__ import annotations

from meterline.config import ServiceSettings
from pydantic import SecretStr


class IdentitySettings(ServiceSettings):
    """What every service has, and:"""

    publisher_address: str = ""
    """host:port of the publisher, asked whether a tenant's plan has prices. Empty: every plan is taken."""
    master_keys: SecretStr
    """`id:base64,…`: keys of 32 bytes. The first seals signing keys, all of them open what was sealed."""
