"""The settings of the publisher."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urlsplit

from meterline.config import ServiceSettings
from pydantic import Field, SecretStr, field_validator, model_validator

_KEY = re.compile(r"(rk|sk)_(test|live)_\S+")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class PublisherSettings(ServiceSettings):
    """The settings of every service, and: the provider, the services it calls, and intervals in seconds."""

    identity_address: str = Field(min_length=1)
    """host:port of identity's API, which verifies API keys."""
    aggregate_address: str = Field(min_length=1)
    """host:port of aggregate's API."""
    ingest_address: str = Field(min_length=1)
    """host:port of ingest's API."""

    stripe_api_key: SecretStr | None = None
    """A Stripe API key; a restricted key (`rk_`) suffices and is safer than a secret one (`sk_`). Unset:
    nobody is billed, and usage is held until a key is set. An empty text is refused."""
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    send_concurrency: int = Field(default=20, ge=1, le=20)
    """Most concurrent calls to the provider. Its limit per account is higher, but shared with other software.
    """
    send_backoff_seconds: float = Field(default=0.5, gt=0)
    """Pause in seconds after the first failed attempt to send; doubles with each further one."""
    send_backoff_max_seconds: float = Field(default=300.0, gt=0)

    close_check_seconds: float = Field(default=60.0, gt=0)
    close_grace_seconds: float = Field(default=72 * 3600.0, ge=0)
    """How long after its end, in seconds, a period is rated again for late usage; 72 hours is the latest time
    for which the provider can be configured to finalise an invoice."""
    settle_seconds: float = Field(default=300.0, gt=0)
    freshness_wait_seconds: float = Field(default=5.0, ge=0)
    """How long, in seconds, to wait for usage that aggregate is rebuilding."""
    publish_wait_seconds: float = Field(default=15.0, ge=0)
    """How long, in seconds, PublishUsage waits for the provider before it returns rows that are not sent yet.
    """

    @field_validator("stripe_api_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not _KEY.fullmatch(key.get_secret_value()):
            # Does not quote the value: it may be another secret.
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
