"""Channels that send a token with every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grpc import aio

Token = Callable[[], str]


class _UnaryWithToken(aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(details, self._token), request)


class _AnswersWithToken(aio.UnaryStreamClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(details, self._token), request)


class _StreamWithToken(aio.StreamStreamClientInterceptor):
    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_stream_stream(
        self, continuation: Callable[..., Any], details: aio.ClientCallDetails, requests: Any
    ) -> Any:
        return await continuation(_with_token(details, self._token), requests)


def channel(address: str, token: Token, options: Sequence[tuple[str, Any]] = ()) -> aio.Channel:
    """`token` is called for every call, so that a channel outlives its tokens."""
    return aio.insecure_channel(
        address,
        options=options,
        interceptors=[_UnaryWithToken(token), _AnswersWithToken(token), _StreamWithToken(token)],
    )


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """What a call carries to bring `token`."""
    return (("authorization", f"Bearer {token}"),)


def _with_token(details: aio.ClientCallDetails, token: Token) -> aio.ClientCallDetails:
    entries = aio.Metadata(*(details.metadata or ()))
    for key, value in metadata(token()):
        entries.add(key, value)
    return aio.ClientCallDetails(
        details.method, details.timeout, entries, details.credentials, details.wait_for_ready
    )
