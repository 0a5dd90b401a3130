"""Service tokens are accepted only with a valid signature, the right audience and a short lifetime."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.api_keys import KnownKeys
from meterline.auth.gate import Bearers
from meterline.auth.grants import SERVICES
from meterline.auth.principals import GRANTABLE, Kind, Permission, Principal
from meterline.auth.public_keys import LOOK_SECONDS, KeyRing, entry
from meterline.auth.tokens import ServiceSigner, ServiceTokens, new_private_key, public_key_of
from meterline.clock import ManualClock
from meterline.errors import UnauthenticatedError

from tests.support.callers import Authority

pytestmark = pytest.mark.req("T4.1")

NOW_S = 1_700_000_000
OURS, THEIRS = Authority(), Authority()
TOKENS = OURS.tokens()
CLAIMS = {"sub": "ingest", "aud": "meterline", "permissions": ["read"], "iat": NOW_S, "exp": NOW_S + 300}
KID = jwt.get_unverified_header(OURS.signer(name="ingest", clock=ManualClock(0)).token())["kid"]


def signed(claims: dict[str, Any], key: str = OURS.private["ingest"], **headers: Any) -> str:
    private: Any = load_pem_private_key(key.encode(), None)
    return jwt.encode(claims, private, "EdDSA", {"kid": KID} | headers)


def is_taken(token: str) -> bool:
    try:
        TOKENS.verify(token)
    except UnauthenticatedError:
        return False
    return True


def test_verified_token_has_the_signed_claims() -> None:
    clock = ManualClock(NOW_S * 1_000_000)
    signer = OURS.signer(Permission.READ, Permission.INTERNAL, name="ingest", tenant="acme", clock=clock)
    permissions = frozenset({Permission.READ, Permission.INTERNAL})
    assert TOKENS.verify(signer.token()) == (
        Principal("ingest", Kind.SERVICE, "acme", permissions),
        (NOW_S + 300) * 1_000_000,
    )


def test_signer_renews_its_token_at_half_of_its_lifetime() -> None:
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
def test_invalid_claims_are_refused(change: dict[str, Any]) -> None:
    claims = {name: value for name, value in (CLAIMS | change).items() if value is not None}
    assert is_taken(signed(CLAIMS))
    assert not is_taken(signed(claims))


def test_unknown_keys_and_key_ids_are_refused() -> None:
    assert not is_taken(signed(CLAIMS, THEIRS.private["ingest"]))
    assert not is_taken(signed(CLAIMS, THEIRS.private["ingest"], kid="0" * 16))
    assert not is_taken(signed(CLAIMS, kid="0" * 16))
    assert not is_taken(THEIRS.signer().token())


def test_other_algorithms_are_refused() -> None:
    """The public key must not serve as an HMAC secret, and a missing signature must not verify."""

    def part(content: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    body = part(CLAIMS)
    unsigned = f"{part({'alg': 'none', 'kid': KID})}.{body}."
    assert not is_taken(unsigned)
    head = f"{part({'alg': 'HS256', 'kid': KID})}.{body}"
    mac = hmac.digest(public_key_of(OURS.private["ingest"]).encode(), head.encode(), hashlib.sha256)
    assert not is_taken(f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@given(st.data())
def test_token_with_a_changed_character_is_refused(data: st.DataObject) -> None:
    token = signed(CLAIMS)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda letter: letter != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    # The last character of the signature has unused bits: some other characters decode to the same bytes.
    assert not is_taken(changed) or _bytes_of(changed) == _bytes_of(token)


def _bytes_of(token: str) -> object:
    try:
        return [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
    except ValueError:
        return None


@given(st.text(max_size=60))
def test_any_text_is_refused_as_unauthenticated(text: str) -> None:
    assert not is_taken(text)


def test_old_and_new_public_keys_are_accepted_during_rotation() -> None:
    both = ServiceTokens(KeyRing(OURS.public_keys + THEIRS.public_keys))
    for authority in (OURS, THEIRS):
        assert both.verify(authority.signer(name="ingest").token())[0].name == "ingest"


@pytest.mark.parametrize("text", ["hidden", "-----BEGIN PRIVATE KEY-----\nhidden\n-----END PRIVATE KEY-----"])
def test_invalid_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="Ed25519") as caught:
        ServiceSigner("a", text, (), ManualClock(0))
    assert "hidden" not in str(caught.value)
    with pytest.raises(ValueError, match="Ed25519") as caught:
        KeyRing(f"service ingest\n{text}")
    assert "hidden" not in str(caught.value)
    assert public_key_of(new_private_key()) != public_key_of(new_private_key())


# --- owners of keys


OWNERS = (*SERVICES, "tester")


def impersonated(owner: str, name: str) -> ServiceSigner:
    """A signer that claims to be `name` but signs with the key of `owner`."""
    return ServiceSigner(name, OURS.private[owner], {Permission.READ}, ManualClock(NOW_S * 1_000_000))


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", OWNERS)
def test_key_signs_only_for_its_owner(owner: str, name: str) -> None:
    assert is_taken(impersonated(owner, name).token()) is (owner == name)


def test_verifier_that_ignores_key_owners_is_caught() -> None:
    """The planted bug: every key is accepted for ingest."""
    careless = OURS.tokens()
    keys = careless._ring.keys
    careless._ring.keys = {kid: replace(key, owner="ingest") for kid, key in keys.items()}
    assert careless.verify(impersonated("publisher", "ingest").token())[0].name == "ingest"


@pytest.mark.parametrize("name", OWNERS)
def test_token_permissions_are_limited_to_those_of_the_owner(name: str) -> None:
    signer = OURS.signer(*Permission, name=name, clock=ManualClock(NOW_S * 1_000_000))
    granted = SERVICES.get(name, GRANTABLE)
    assert TOKENS.verify(signer.token())[0].permissions == granted


def test_operator_has_the_permissions_listed_with_its_key() -> None:
    public = public_key_of(OURS.private["tester"])
    ring = KeyRing("# who looks only\n" + entry("operator tester read, quarantine", public))
    known = ServiceTokens(ring).verify(OURS.signer(clock=ManualClock(NOW_S * 1_000_000)).token())[0]
    assert known.permissions == {Permission.READ, Permission.QUARANTINE}


PUBLIC = public_key_of(OURS.private["ingest"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PUBLIC, "needs a line before it"),
        (entry("service ingest", PUBLIC) + PUBLIC, "needs a line before it"),
        (entry("service warehouse", PUBLIC), "service is one of"),
        (entry("service ingest read", PUBLIC), "service is one of"),
        (entry("operator publisher", PUBLIC), "operator has a name"),
        (entry("operator Alice", PUBLIC), "operator has a name"),
        (entry("operator alice internal", PUBLIC), "cannot have the permission 'internal'"),
        (entry("operator alice everything", PUBLIC), "cannot have the permission 'everything'"),
        (entry("alice", PUBLIC), "a line is"),
        (entry("service ingest\nservice publisher", PUBLIC), "ingest has no Ed25519 public key"),
        (entry("service ingest", PUBLIC) + entry("service publisher", PUBLIC), "key of another owner"),
        (entry("operator a read", PUBLIC) + entry("operator a", PUBLIC), "key of another owner"),
        (entry("service ingest", PUBLIC) + "service publisher", "each after a line"),
        (f"service ingest\n{PUBLIC[:60]}", "each after a line"),
        ("", "each after a line"),
    ],
    # Numbers as ids, since the keys differ in every process.
    ids=range(15),
)
def test_keys_without_exactly_one_owner_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyRing(text)


# --- changes of the key file


def test_key_removed_from_the_file_is_refused_within_the_check_interval(tmp_path: Path) -> None:
    path, now = tmp_path / "public-keys", 100.0
    path.write_text(OURS.public_keys + THEIRS.public_keys)
    ring = KeyRing(path, now=lambda: now)
    tokens = ServiceTokens(ring)
    token = OURS.signer().token()
    path.write_text(THEIRS.public_keys)
    now += LOOK_SECONDS - 0.001
    assert not tokens.changed()
    now += 0.001
    assert tokens.changed()
    assert not tokens.changed()
    with pytest.raises(UnauthenticatedError):
        tokens.verify(token)
    assert tokens.verify(THEIRS.signer().token())[0].name == "tester"


@pytest.mark.parametrize("broken", ["", "service ingest\n-----BEGIN PUBLIC KEY-----\nMCow", None])
def test_unreadable_key_file_keeps_the_loaded_keys(
    tmp_path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path, now = tmp_path / "public-keys", 100.0
    path.write_text(OURS.public_keys)
    tokens = ServiceTokens(KeyRing(path, now=lambda: now))
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    for _ in range(2):
        now += LOOK_SECONDS
        assert not tokens.changed()
        assert tokens.verify(OURS.signer().token())[0].name == "tester"
    path.write_text(THEIRS.public_keys)
    now += LOOK_SECONDS
    assert tokens.changed()


async def test_key_change_invalidates_verified_tokens(tmp_path: Path) -> None:
    path, now = tmp_path / "public-keys", 100.0
    path.write_text(OURS.public_keys)

    async def no_keys(key_id: str, digest: bytes) -> None:
        return None

    known = Bearers(
        ServiceTokens(KeyRing(path, now=lambda: now)), KnownKeys(no_keys), ManualClock(NOW_S * 1_000_000)
    )
    metadata = OURS.metadata(Permission.READ, clock=ManualClock(NOW_S * 1_000_000))
    assert (await known.identify(metadata)).name == "tester"
    assert known.knows(metadata)
    path.write_text(THEIRS.public_keys)
    now += LOOK_SECONDS
    with pytest.raises(UnauthenticatedError):
        await known.identify(metadata)
    assert not known.knows(metadata)
