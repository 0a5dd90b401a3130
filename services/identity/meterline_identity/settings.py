"""The settings of identity."""

from __future__ import annotations

from meterline.config import ServiceSettings
from pydantic import SecretStr


class IdentitySettings(ServiceSettings):
    """The settings of every service, and:"""

    publisher_address: str = ""
    """host:port of the publisher, which knows whether a plan has prices. Empty: every plan is accepted."""
    master_keys: SecretStr
    """`id:base64,…`: keys of 32 bytes. The first seals signing keys; all of them unseal."""
