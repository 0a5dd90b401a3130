"""What identity can be told."""

from __future__ import annotations

from meterline.config import ServiceSettings


class IdentitySettings(ServiceSettings):
    """What every service has; identity needs nothing of its own."""
