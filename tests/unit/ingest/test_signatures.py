"""Signed calls: valid signatures verify, any change fails verification, and each refusal has a reason."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError, UnauthenticatedError
from meterline_identity.credentials.rules.capture_configs import client_secret
from meterline_ingest.capture.rules.signatures import (
    WINDOW_MS,
    SignedCall,
    SigningKey,
    check_key,
    check_moment,
    check_signature,
    signature,
)

pytestmark = pytest.mark.req("T1.4")

NOW_US = 1_700_000_000_123_456
NOW_MS = NOW_US // 1_000
KEY = SigningKey(b"k" * 32, None, revoked=False)

ids = st.text("abcXYZ019_-", min_size=1, max_size=64)
bodies = st.binary(max_size=60)


def signed(config: bytes, id: str, timestamp_ms: int, body: bytes, key: SigningKey = KEY) -> SignedCall:
    secret = client_secret(key.secret, config)
    return SignedCall(config, id, timestamp_ms, body, signature(secret, id, timestamp_ms, body))


def holds(call: SignedCall, key: SigningKey = KEY) -> bool:
    try:
        check_signature(call, key)
    except UnauthenticatedError:
        return False
    return True


def test_signature_follows_the_protocol() -> None:
    secret = hmac.new(b"key", b"config", hashlib.sha256).digest()
    assert client_secret(b"key", b"config") == secret
    expected = hmac.new(secret, b"call-1.1700000000123.\x0a\x00body", hashlib.sha256).digest()
    assert signature(secret, "call-1", 1_700_000_000_123, b"\x0a\x00body") == expected


@given(st.binary(min_size=1, max_size=60), ids, st.integers(-(2**63), 2**63 - 1), bodies)
def test_signed_call_verifies(config: bytes, id: str, timestamp_ms: int, body: bytes) -> None:
    assert holds(signed(config, id, timestamp_ms, body))


@given(ids, st.integers(0, 2**63 - 1), bodies, ids, st.integers(0, 2**63 - 1), bodies)
def test_signed_bytes_are_unambiguous(
    id: str, timestamp_ms: int, body: bytes, other: str, other_ms: int, other_body: bytes
) -> None:
    """Moving the boundaries between the parts never gives another valid call."""
    assume((id, timestamp_ms, body) != (other, other_ms, other_body))
    assert signature(b"s", id, timestamp_ms, body) != signature(b"s", other, other_ms, other_body)


def test_dot_in_a_part_is_refused() -> None:
    assert signature(b"s", "a.1", 2, b"body") == signature(b"s", "a", 1, b"2.body")
    with pytest.raises(InvalidArgumentError) as caught:
        check_moment(signed(b"config", "a.1", NOW_MS, b""), NOW_US)
    assert (caught.value.field, caught.value.reason) == ("id", "ID_INVALID")


@given(st.data())
def test_changed_call_does_not_verify(data: st.DataObject) -> None:
    call = signed(b"the config", "call-1", NOW_MS, b"the body")
    part = data.draw(st.sampled_from(["config", "id", "timestamp_ms", "body", "signature"]))
    if part == "timestamp_ms":
        changed: object = data.draw(st.integers(-(2**63), 2**63 - 1))
    elif part == "id":
        changed = data.draw(ids)
    else:
        changed = data.draw(bodies | st.binary(min_size=32, max_size=32))
    assume(changed != getattr(call, part))
    assert not holds(replace(call, **{part: changed}))  # type: ignore[arg-type]


@given(st.integers(0, 31))
def test_truncated_or_extended_signature_does_not_verify(length: int) -> None:
    call = signed(b"config", "call-1", NOW_MS, b"body")
    assert not holds(replace(call, signature=call.signature[:length]))
    assert not holds(replace(call, signature=call.signature + b"\0"))


def test_secret_of_another_tenant_does_not_verify() -> None:
    theirs = SigningKey(b"t" * 32, None, revoked=False)
    assert not holds(signed(b"config", "call-1", NOW_MS, b"body", theirs))


@given(st.integers(-2 * WINDOW_MS, 2 * WINDOW_MS))
@example(WINDOW_MS)
@example(-WINDOW_MS)
@example(WINDOW_MS + 1)
@example(-WINDOW_MS - 1)
def test_refusal_of_a_stale_call_includes_the_server_time(offset: int) -> None:
    call = signed(b"config", "call-1", NOW_MS + offset, b"body")
    if abs(offset) <= WINDOW_MS:
        check_moment(call, NOW_US)
        return
    with pytest.raises(UnauthenticatedError) as caught:
        check_moment(call, NOW_US)
    assert caught.value.reason == "TIMESTAMP_OUT_OF_WINDOW"
    assert caught.value.details == {"server_time_ms": str(NOW_MS)}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "KEY_UNKNOWN"),
        (SigningKey(b"", None, revoked=True), "KEY_REVOKED"),
        (SigningKey(b"", NOW_US + 1, revoked=True), "KEY_REVOKED"),
        (SigningKey(b"s", NOW_US, revoked=False), "KEY_EXPIRED"),
    ],
)
def test_unusable_key_is_refused_with_the_reason(key: SigningKey | None, reason: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        check_key(key, NOW_US)
    assert caught.value.reason == reason


def test_key_verifies_until_its_end() -> None:
    for key in (KEY, SigningKey(b"s", NOW_US + 1, revoked=False)):
        assert check_key(key, NOW_US) is key
    assert "kkkk" not in repr(KEY)
