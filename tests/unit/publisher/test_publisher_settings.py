"""Settings of the publisher for Stripe: valid keys, secrecy of keys, and classification of errors."""

from typing import Any

import pytest
import stripe
from meterline_publisher.providers.port import AmbiguousError, BusyError, RejectedError
from meterline_publisher.providers.stripe.errors import failure_of, is_known
from meterline_publisher.settings import PublisherSettings
from pydantic import ValidationError

pytestmark = pytest.mark.req("S8")

GIVEN: dict[str, Any] = {
    "database_url": "postgresql://somewhere",
    "authentication": "off",
    "identity_address": "identity:1",
    "aggregate_address": "aggregate:1",
    "ingest_address": "ingest:1",
    "stripe_api_key": "rk_test_secret",
}


def refused(message: str, code: str | None = None) -> stripe.InvalidRequestError:
    return stripe.InvalidRequestError(message, None, code)  # type: ignore[no-untyped-call]


def cut() -> stripe.APIConnectionError:
    return stripe.APIConnectionError("cut")  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("key", ["rk_test_a", "rk_live_a", "sk_test_a", "sk_live_a"])
def test_stripe_keys_are_accepted(key: str) -> None:
    settings = PublisherSettings.model_validate(GIVEN | {"stripe_api_key": key})
    assert settings.stripe_api_key is not None
    assert settings.stripe_api_key.get_secret_value() == key
    assert key not in repr(settings)


def test_without_a_key_there_is_no_provider() -> None:
    given = {name: value for name, value in GIVEN.items() if name != "stripe_api_key"}
    assert PublisherSettings.model_validate(given).stripe_api_key is None


@pytest.mark.parametrize("key", ["", "pk_live_public", "whsec_hidden", "rk_test_", "rk_live_with space"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValidationError):
        PublisherSettings.model_validate(GIVEN | {"stripe_api_key": key})


@pytest.mark.parametrize(
    "wrong", [{"stripe_api_key": "hidden"}, {"stripe_api_key": "rk_live_hidden", "stripe_api_base": "x"}]
)
def test_refusal_does_not_contain_the_key(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as failure:
        PublisherSettings.model_validate(GIVEN | wrong)
    assert "hidden" not in str(failure.value)


@pytest.mark.parametrize(
    ("key", "base", "taken"),
    [
        ("rk_live_a", "https://api.stripe.com", True),
        ("rk_live_a", "http://127.0.0.1:12111", True),
        ("rk_live_a", "http://double:12111", False),
        ("rk_test_a", "http://double:12111", True),
        ("rk_test_a", "double:12111", False),
    ],
)
def test_live_key_requires_https(key: str, base: str, taken: bool) -> None:
    given = GIVEN | {"stripe_api_key": key, "stripe_api_base": base}
    if taken:
        assert PublisherSettings.model_validate(given).stripe_api_base == base
    else:
        with pytest.raises(ValidationError):
            PublisherSettings.model_validate(given)


@pytest.mark.req("S6")
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (stripe.RateLimitError("slow", code="lock_timeout"), BusyError, "lock_timeout"),
        (stripe.AuthenticationError("key"), BusyError, "authentication"),
        (stripe.PermissionError("key"), BusyError, "authentication"),
        (stripe.APIError("busy", http_status=409), BusyError, "conflict"),
        (stripe.IdempotencyError("other parameters"), AmbiguousError, "idempotency_error"),
        (cut(), AmbiguousError, "connection"),
        (stripe.APIError("oops", http_status=500), AmbiguousError, "server_error"),
        (TimeoutError(), AmbiguousError, "timeout"),
        (refused("no", "no_meter"), RejectedError, "no_meter"),
        (refused("no"), RejectedError, "invalid_request"),
    ],
)
def test_unknown_errors_are_ambiguous(
    error: stripe.StripeError | TimeoutError, kind: type[Exception], code: str
) -> None:
    found = failure_of(error)
    assert type(found) is kind
    assert found.code == code


def test_duplicate_is_recognised_by_its_message() -> None:
    assert is_known(refused("An event already exists with identifier abc."))
    assert not is_known(refused("No such customer"))
    assert not is_known(TimeoutError())
