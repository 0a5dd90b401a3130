"""Permissions of API keys, rotation of signing keys, and sealing of secrets."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.auth.principals import GRANTABLE, GRANTABLE_TO_A_TENANT, Kind, Permission, Principal
from meterline.crypto.master_keys import MasterKeys
from meterline.crypto.sealer import Place, Sealer
from meterline.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    MeterlineError,
    PermissionDeniedError,
)
from meterline_identity.credentials.rules.api_keys import grant
from meterline_identity.credentials.rules.signing_keys import SigningKey, newest_active, outgoing

subsets = st.sets(st.sampled_from(sorted(Permission))).map(frozenset)


def granter(permissions: frozenset[Permission]) -> Principal:
    return Principal("maker", Kind.API_KEY, None, permissions)


@given(subsets, subsets, st.sampled_from(["", "acme"]))
@pytest.mark.req("T4.1")
def test_granter_cannot_grant_permissions_it_lacks(
    wanted: frozenset[Permission], held: frozenset[Permission], slug: str
) -> None:
    grantable = GRANTABLE_TO_A_TENANT if slug else GRANTABLE
    texts = [permission.value for permission in wanted]
    if not wanted or wanted - grantable:
        with pytest.raises(InvalidArgumentError):
            grant("permissions", texts, slug, granter(held))
    elif wanted - held:
        with pytest.raises(PermissionDeniedError):
            grant("permissions", texts, slug, granter(held))
    else:
        assert grant("permissions", texts, slug, granter(held)) == wanted


@pytest.mark.req("T4.1")
def test_unknown_permission_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        grant("permissions", ["read", "everything"], "", granter(GRANTABLE))


# --- rotation of a tenant's signing keys over time


class Rotation:
    """Rotates and revokes keys as the service does."""

    def __init__(self) -> None:
        self.now_us = 1_000_000
        self.keys: list[SigningKey] = []

    def rotate(self, grace_us: int) -> None:
        replaced = outgoing(self.keys, self.now_us, grace_us)
        if replaced is not None:
            self.keys = [replaced if key.generation == replaced.generation else key for key in self.keys]
        generation = len(self.keys) + 1
        self.keys.append(SigningKey(1, generation, f"{generation:016x}", b"sealed", self.now_us, "maker"))

    def revoke(self, at: int) -> None:
        if self.keys:
            key = self.keys[at % len(self.keys)]
            self.keys[at % len(self.keys)] = replace(key, revoked_at_us=self.now_us, sealed=None)

    @property
    def active(self) -> list[SigningKey]:
        return [key for key in self.keys if key.is_active(self.now_us)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("rotate"), st.integers(0, 50)),
            st.tuples(st.just("revoke"), st.integers(0, 50)),
            st.tuples(st.just("pass"), st.integers(1, 30)),
        ),
        max_size=40,
    )
)
@pytest.mark.req("T1.4")
def test_at_most_two_keys_are_active_and_each_until_its_announced_end(steps: list[tuple[str, int]]) -> None:
    rotation = Rotation()
    for step, amount in steps:
        before = rotation.active
        if step == "rotate":
            try:
                rotation.rotate(amount)
            except FailedPreconditionError:
                assert len(before) == 2
                continue
            # Active keys keep verifying for the grace period, but not beyond an end announced before.
            for key in before:
                (now,) = [each for each in rotation.keys if each.generation == key.generation]
                ends = rotation.now_us + amount
                assert now.expires_at_us == min(ends, key.expires_at_us or ends)
            newest = newest_active(rotation.keys, rotation.now_us)
            assert newest is rotation.keys[-1]
            assert newest.expires_at_us is None
        elif step == "revoke":
            rotation.revoke(amount)
        else:
            rotation.now_us += amount
        assert len(rotation.active) <= 2


@pytest.mark.req("T1.4")
def test_later_rotation_does_not_extend_a_key_with_an_announced_end() -> None:
    rotation = Rotation()
    rotation.rotate(0)
    rotation.rotate(10)
    ends = rotation.now_us + 10
    rotation.revoke(1)
    rotation.rotate(50)
    assert [key.expires_at_us for key in rotation.keys] == [ends, None, None]


@pytest.mark.req("T1.4")
def test_key_is_active_until_its_end() -> None:
    key = SigningKey(1, 1, "0" * 16, b"sealed", 0, "maker", expires_at_us=10)
    assert key.is_active(9)
    assert not key.is_active(10)
    assert newest_active([key], 10) is None


# --- sealing

PLACE = Place(7, "signing_keys", "secret", "0" * 16)
A = "a:" + base64.b64encode(b"a" * 32).decode()
B = "b:" + base64.b64encode(b"b" * 32).decode()


@given(st.binary(max_size=64))
@pytest.mark.req("T4.3")
def test_sealed_secret_opens_only_in_its_own_row(secret: bytes) -> None:
    sealer = Sealer(MasterKeys.parse(A))
    sealed = sealer.seal(secret, PLACE)
    assert sealer.open(sealed, PLACE) == secret
    assert sealed != sealer.seal(secret, PLACE)
    for elsewhere in (
        replace(PLACE, tenant_id=8),
        replace(PLACE, table="others"),
        replace(PLACE, column="other"),
        replace(PLACE, row="1" * 16),
    ):
        with pytest.raises(MeterlineError):
            sealer.open(sealed, elsewhere)


@given(st.data())
@pytest.mark.req("T4.3")
def test_tampered_secret_does_not_open(data: st.DataObject) -> None:
    sealer = Sealer(MasterKeys.parse(A))
    sealed = bytearray(sealer.seal(b"secret", PLACE))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MeterlineError):
        sealer.open(bytes(sealed), PLACE)
    with pytest.raises(MeterlineError):
        sealer.open(bytes(sealed[:at]), PLACE)


@pytest.mark.req("T4.3")
def test_first_master_key_seals_and_all_master_keys_open() -> None:
    old, both, new = (
        Sealer(MasterKeys.parse(A)),
        Sealer(MasterKeys.parse(f"{B},{A}")),
        Sealer(MasterKeys.parse(B)),
    )
    assert both.open(old.seal(b"secret", PLACE), PLACE) == b"secret"
    assert new.open(both.seal(b"secret", PLACE), PLACE) == b"secret"
    with pytest.raises(MeterlineError, match="was not given to this process"):
        new.open(old.seal(b"secret", PLACE), PLACE)


@pytest.mark.parametrize(
    "text", ["", "hidden", "a:hidden", ":AAAA", "a b:" + "A" * 43 + "=", "a:" + "A" * 24]
)
@pytest.mark.req("T4.3", "S8")
def test_invalid_master_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="master key") as caught:
        Sealer(MasterKeys.parse(text))
    assert "hidden" not in str(caught.value)
