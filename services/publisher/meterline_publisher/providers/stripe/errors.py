"""Maps errors of Stripe's library to the errors of the interface."""

from __future__ import annotations

from typing import Final

import stripe

from meterline_publisher.providers.port import AmbiguousError, BusyError, RejectedError

_KNOWN_IDENTIFIER: Final = "already exists with identifier"


def may_be_repeated(error: Exception) -> bool:
    """Whether repeating the read may succeed."""
    return isinstance(error, stripe.RateLimitError | stripe.APIConnectionError | stripe.APIError)


def is_known(error: Exception) -> bool:
    """Whether Stripe refused a duplicate: that error has no code of its own, only this message."""
    return isinstance(error, stripe.InvalidRequestError) and _KNOWN_IDENTIFIER in str(error.user_message)


def failure_of(error: stripe.StripeError | TimeoutError) -> RejectedError | BusyError | AmbiguousError:
    """The error for a failed send. What is not known to be harmless is ambiguous."""
    if isinstance(error, TimeoutError):
        return AmbiguousError("timeout", "no answer in time")
    code, message = error.code or "", str(error.user_message or type(error).__name__)
    match error:
        case stripe.RateLimitError():
            return BusyError(code or "rate_limit", message)
        case stripe.AuthenticationError() | stripe.PermissionError():
            # The key is at fault, not the event, which can be sent once the key is corrected.
            return BusyError("authentication", message)
        case stripe.IdempotencyError():
            return AmbiguousError(code or "idempotency_error", message, replayed=True)
        case stripe.InvalidRequestError():
            return RejectedError(code or "invalid_request", message)
        case stripe.APIError() if error.http_status == 409:
            return BusyError(code or "conflict", message)
        case stripe.APIConnectionError():
            return AmbiguousError("connection", message)
        case _:
            replayed = error.headers is not None and "idempotent-replayed" in error.headers
            return AmbiguousError(code or "server_error", message, replayed=replayed)


def outcome(failure: RejectedError | BusyError | AmbiguousError) -> str:
    return type(failure).__name__.removesuffix("Error").lower()
