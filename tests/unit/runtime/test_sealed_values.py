"""A sealed value opens only unchanged, at its own place and under its own key."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from meterline.crypto import envelope
from meterline.crypto.envelope import OVERHEAD, DataKey, first_of, key_id_of, place
from meterline.errors import TamperedError

pytestmark = pytest.mark.req("T4.3")

key_ids = st.integers(0, 2**31 - 1)
names = st.text(max_size=20)
rows = st.binary(max_size=40)
texts = st.binary(max_size=200)
secrets = st.binary(min_size=32, max_size=32)


@dataclass(frozen=True)
class Place:
    tenant_id: int
    table: str
    column: str
    row: bytes

    @property
    def column_place(self) -> bytes:
        return place(self.tenant_id, self.table, self.column)


places = st.builds(Place, st.integers(0, 2**31 - 1), names, names, rows)


@given(places, key_ids, secrets, texts)
def test_sealed_value_round_trips(where: Place, key_id: int, secret: bytes, text: bytes) -> None:
    sealed = DataKey(key_id, secret).seal(where.column_place, where.row, text)
    assert DataKey(key_id, secret).unseal(where.column_place, where.row, sealed) == text
    assert (key_id_of(sealed), len(sealed)) == (key_id, len(text) + OVERHEAD)


@given(places, key_ids, secrets, texts, st.data())
def test_any_flipped_bit_is_detected(
    where: Place, key_id: int, secret: bytes, text: bytes, data: st.DataObject
) -> None:
    key = DataKey(key_id, secret)
    sealed = bytearray(key.seal(where.column_place, where.row, text))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TamperedError):
        key.unseal(where.column_place, where.row, bytes(sealed))


@given(places, places, key_ids, secrets, texts)
def test_value_does_not_open_at_another_place(
    where: Place, elsewhere: Place, key_id: int, secret: bytes, text: bytes
) -> None:
    """Changes each part of the place in turn, so that each must be authenticated."""
    key = DataKey(key_id, secret)
    sealed = key.seal(where.column_place, where.row, text)
    for part in ("tenant_id", "table", "column", "row"):
        moved = replace(where, **{part: getattr(elsewhere, part)})
        if moved != where:
            with pytest.raises(TamperedError):
                key.unseal(moved.column_place, moved.row, sealed)


@given(places, places)
def test_different_places_have_different_encodings(one: Place, other: Place) -> None:
    assume(one != other)
    key = DataKey(1, bytes(32))
    sealed = key.seal(one.column_place, one.row, b"text")
    with pytest.raises(TamperedError):
        key.unseal(other.column_place, other.row, sealed)


def test_adjacent_names_are_separated() -> None:
    assert place(1, "ab", "c") != place(1, "a", "bc")
    key = DataKey(1, bytes(32))
    sealed = key.seal(place(1, "a", "b"), b"row", b"text")
    # The end of one place's row equals the beginning of another's key.
    with pytest.raises(TamperedError):
        key.unseal(place(1, "a", "b"), b"row\x00\x00\x00\x04", sealed)


@given(places, key_ids, key_ids, secrets, texts)
def test_value_does_not_open_under_another_key_number(
    where: Place, key_id: int, other: int, secret: bytes, text: bytes
) -> None:
    """Also with the same secret, and with the number inside the value replaced to match."""
    assume(key_id != other)
    sealed = DataKey(key_id, secret).seal(where.column_place, where.row, text)
    for value in (sealed, first_of(other) + sealed[len(first_of(other)) :]):
        with pytest.raises(TamperedError):
            DataKey(other, secret).unseal(where.column_place, where.row, value)


@given(places, secrets, secrets, texts)
def test_value_does_not_open_under_another_secret(
    where: Place, one: bytes, other: bytes, text: bytes
) -> None:
    assume(one != other)
    sealed = DataKey(1, one).seal(where.column_place, where.row, text)
    with pytest.raises(TamperedError):
        DataKey(1, other).unseal(where.column_place, where.row, sealed)


@given(st.binary(max_size=120))
def test_unsealed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(TamperedError):
        DataKey(1, bytes(32)).unseal(place(1, "a", "b"), b"row", data)


@given(texts, st.data())
def test_truncated_or_extended_value_is_refused(text: bytes, data: st.DataObject) -> None:
    key, where = DataKey(1, bytes(32)), place(1, "a", "b")
    sealed = key.seal(where, b"row", text)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    for changed in (cut, sealed + b"\0"):
        with pytest.raises(TamperedError):
            key.unseal(where, b"row", changed)


def test_sealing_is_randomised() -> None:
    key, where = DataKey(1, bytes(32)), place(1, "a", "b")
    sealed = {key.seal(where, b"row", b"text") for _ in range(1_000)}
    nonces = {value[5:17] for value in sealed}
    assert (len(sealed), len(nonces)) == (1_000, 1_000)


@given(key_ids, key_ids, texts)
def test_values_are_ordered_by_key_number(one: int, other: int, text: bytes) -> None:
    sealed = DataKey(one, bytes(32)).seal(place(1, "a", "b"), b"row", text)
    assert (sealed < first_of(other)) == (one < other)


def test_secret_is_not_shown() -> None:
    secret = envelope.new_secret()
    key = DataKey(1, secret)
    assert len(secret) == 32
    assert secret.hex() not in repr(key)
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_of_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey(1, bytes(length))
