"""Tokens of services: only what the right key signed, for us, for a short time, is taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.principals import Kind, Permission, Principal
from meterline.auth.tokens import ServiceSigner, ServiceTokens, new_private_key, public_key_of
from meterline.clock import ManualClock
from meterline.errors import UnauthenticatedError

from tests.support.callers import Authority

pytestmark = pytest.mark.req("T4.1")

NOW_S = 1_700_000_000
OURS, THEIRS = Authority(), Authority()
TOKENS = ServiceTokens(public_key_of(OURS.private))
CLAIMS = {"sub": "ingest", "aud": "meterline", "permissions": ["read"], "iat": NOW_S, "exp": NOW_S + 300}
KID = jwt.get_unverified_header(OURS.signer(clock=ManualClock(0)).token())["kid"]


def signed(claims: dict[str, Any], key: str = OURS.private, **headers: Any) -> str:
    private: Any = load_pem_private_key(key.encode(), None)
    return jwt.encode(claims, private, "EdDSA", {"kid": KID} | headers)


def is_taken(token: str) -> bool:
    try:
        TOKENS.verify(token)
    except UnauthenticatedError:
        return False
    return True


def test_what_was_signed_is_what_is_known() -> None:
    clock = ManualClock(NOW_S * 1_000_000)
    signer = OURS.signer(Permission.READ, Permission.INTERNAL, name="ingest", tenant="acme", clock=clock)
    permissions = frozenset({Permission.READ, Permission.INTERNAL})
    assert TOKENS.verify(signer.token()) == (
        Principal("ingest", Kind.SERVICE, "acme", permissions),
        (NOW_S + 300) * 1_000_000,
    )


def test_a_signer_renews_its_token_at_half_of_its_life() -> None:
    clock = ManualClock(NOW_S * 1_000_000)
    signer = OURS.signer(clock=clock, lifetime_seconds=100)
    first = signer.token()
    clock.advance(timedelta(microseconds=49_999_999))
    assert signer.token() == first
    clock.advance(timedelta(microseconds=1))
    assert signer.token() != first
    assert TOKENS.verify(signer.token())[1] == (NOW_S + 150) * 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"iat": None},
        {"iat": "now"},
        {"exp": None},
        {"exp": NOW_S},
        {"exp": NOW_S + 86_401},
        {"exp": float(NOW_S + 300)},
        {"permissions": None},
        {"permissions": ["read", "everything"]},
        {"permissions": 3},
        {"tenant": ""},
        {"tenant": 5},
    ],
    ids=str,
)
def test_claims_that_do_not_hold_are_refused(change: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | change).items() if value is not None}
    assert is_taken(signed(CLAIMS))
    assert not is_taken(signed(claims))


def test_other_keys_and_names_of_keys_are_refused() -> None:
    assert not is_taken(signed(CLAIMS, THEIRS.private))
    assert not is_taken(signed(CLAIMS, THEIRS.private, kid="0" * 16))
    assert not is_taken(signed(CLAIMS, kid="0" * 16))
    assert not is_taken(THEIRS.signer().token())


def test_another_algorithm_is_refused() -> None:
    """The public key is public: it must not serve as a secret, and no signature must not be one."""

    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    body = part(CLAIMS)
    unsigned = f"{part({'alg': 'none', 'kid': KID})}.{body}."
    assert not is_taken(unsigned)
    head = f"{part({'alg': 'HS256', 'kid': KID})}.{body}"
    mac = hmac.digest(public_key_of(OURS.private).encode(), head.encode(), hashlib.sha256)
    assert not is_taken(f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@given(st.data())
def test_a_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    token = signed(CLAIMS)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda letter: letter != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    # The last character of the signature holds fewer bits than it could: some neighbours read the same.
    assert not is_taken(changed) or _bytes_of(changed) == _bytes_of(token)


def _bytes_of(token: str) -> object:
    try:
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    except ValueError:
        return None


@given(st.text(max_size=60))
def test_any_text_is_refused_without_a_fault(text: str) -> None:
    assert not is_taken(text)


def test_several_public_keys_are_taken_while_one_replaces_another() -> None:
    both = ServiceTokens(public_key_of(OURS.private) + public_key_of(THEIRS.private))
    for authority in (OURS, THEIRS):
        assert both.verify(authority.signer(name="a").token())[0].name == "a"


@pytest.mark.parametrize("text", ["hidden", "-----BEGIN PRIVATE KEY-----\nhidden\n-----END PRIVATE KEY-----"])
def test_what_is_no_key_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="Ed25519") as caught:
        ServiceSigner("a", text, (), ManualClock(0))
    assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError, match="Ed25519") as caught:
        ServiceTokens(text)
    assert "hidden" not in str(caught.value)
    assert public_key_of(new_private_key()) != public_key_of(new_private_key())
