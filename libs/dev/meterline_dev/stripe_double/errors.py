"""What the double refuses, in Stripe's error envelope.

An `ApiError` carries its HTTP status and everything the envelope shows. `saved` says whether the refusal
is remembered under the request's Idempotency-Key: Stripe remembers what an endpoint decided, but not what
it refused before the endpoint began to work (malformed parameters, authentication, limits).
"""

from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A refusal: HTTP `status` plus the envelope's `type`, `code`, `message` and `param`."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type_: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry: bool | None = False,
        saved: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type_
        self.code = code
        self.param = param
        self.retry = retry
        self.saved = saved

    def envelope(self) -> dict[str, Any]:
        """The JSON body: `{"error": {"type", "message", "code"?, "param"?}}`."""
        error = {"type": self.type, "code": self.code, "message": self.message, "param": self.param}
        return {"error": {name: value for name, value in error.items() if value is not None}}

    def headers(self) -> dict[str, str]:
        """`Stripe-Should-Retry`, if the double sets it: the library obeys it."""
        return {} if self.retry is None else {"Stripe-Should-Retry": str(self.retry).lower()}


def unauthorized(message: str) -> ApiError:
    return ApiError(message, status=401)


def missing_parameter(param: str) -> ApiError:
    return ApiError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def unknown_parameter(param: str) -> ApiError:
    """Also for parameters that Stripe has and the double does not: silence would be worse."""
    return ApiError(
        f"Received unknown parameter: {param} (or one that the double does not model).",
        code="parameter_unknown",
        param=param,
    )


def invalid_parameter(param: str, message: str, code: str | None = None) -> ApiError:
    return ApiError(message, code=code, param=param)


def no_such(what: str, identifier: str, *, param: str = "id", status: int = 404) -> ApiError:
    """404 for an object named by the path, 400 for one named by a parameter."""
    return ApiError(
        f"No such {what}: '{identifier}'", status=status, code="resource_missing", param=param, saved=True
    )


def conflict(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """The object's state forbids it, whatever the parameters: remembered under the key."""
    return ApiError(message, code=code, param=param, saved=True)


def duplicate_event(identifier: str) -> ApiError:
    """Without a `code`: the v1 endpoint sends none, so clients recognise it by its message."""
    return ApiError(f"An event already exists with identifier {identifier}.", saved=True)


def idempotency_mismatch(key: str) -> ApiError:
    return ApiError(
        f"The Idempotency-Key '{key}' was first used with another endpoint or other parameters.",
        type_="idempotency_error",
    )


def rate_limited() -> ApiError:
    return ApiError("Too many requests. Back off.", status=429, code="rate_limit", retry=None)


def lock_timeout() -> ApiError:
    return ApiError(
        "Another request holds this object. Try again.", status=429, code="lock_timeout", retry=True
    )


def server_error(*, saved: bool = False) -> ApiError:
    """Once remembered under a key, a 500 comes again however often the call is repeated: no retry then."""
    retry = False if saved else None
    return ApiError("An unknown error occurred.", status=500, type_="api_error", retry=retry, saved=saved)
