"""What the publisher can be told."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from meterline.config import ServiceSettings
from pydantic import Field, SecretStr, field_validator, model_validator

_KEY = re.compile(r"(rk|sk)_(test|live)_\S+")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class PublisherSettings(ServiceSettings):
    """Beside what every service has: the billing provider, the services asked, and how often to look."""

    identity_address: str = Field(min_length=1)
    """host:port of identity, asked whom API keys belong to."""
    aggregate_address: str = Field(min_length=1)
    """host:port of the aggregate service."""
    ingest_address: str = Field(min_length=1)
    """host:port of the ingest service."""

    stripe_api_key: SecretStr | None = None
    """A restricted key (`rk_`) is enough, and better than a secret one (`sk_`). Without one nobody is billed:
    usage is held until there is one. An empty text is a mistake, and no way to say so."""
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    send_concurrency: int = Field(default=20, ge=1, le=20)
    """Calls to the provider at a time; it allows many more an account, but other software needs some."""
    send_backoff_seconds: float = Field(default=0.5, gt=0)
    """After the first failed attempt; doubles with each further one."""
    send_backoff_max_seconds: float = Field(default=300.0, gt=0)

    close_check_seconds: float = Field(default=60.0, gt=0)
    close_grace_seconds: float = Field(default=72 * 3600.0, ge=0)
    """How long after its end a period is rated again when usage comes late; 72 hours is the latest that
    the provider can be told to finalise."""
    settle_seconds: float = Field(default=300.0, gt=0)
    freshness_wait_seconds: float = Field(default=5.0, ge=0)
    """How long to wait for usage that the aggregate service is rebuilding."""
    publish_wait_seconds: float = Field(default=15.0, ge=0)
    """How long PublishUsage waits for the provider before it answers with what is still on its way."""

    @field_validator("stripe_api_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _KEY.fullmatch(key.get_secret_value()):
            # Says nothing of what it was: it may be a key of something else.
            raise ValueError(
                "must be a Stripe key: rk_live_, rk_test_, sk_live_ or sk_test_; unset it to bill nobody"
            )
        return key

    @model_validator(mode="after")
    def _keeps_live_keys_secret(self) -> Self:
        address = urlsplit(self.stripe_api_base)
        live = self.stripe_api_key is not None and "_live_" in self.stripe_api_key.get_secret_value()[:8]
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ValueError("stripe_api_base must be an http or https address")
        if live and address.scheme == "http" and address.hostname not in _LOOPBACK:
            raise ValueError("a live key is sent over https only")
        return self
