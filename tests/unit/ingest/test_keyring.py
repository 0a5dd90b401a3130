"""A keyring seals with the right key, opens what any of its keys sealed, and counts what it sealed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from meterline.crypto.envelope import first_of, key_id_of, new_secret
from meterline.crypto.master_keys import MasterKeys
from meterline.errors import FailedPreconditionError, ShreddedError, TamperedError, UnavailableError
from meterline.telemetry import metrics
from meterline_ingest.keys.keyring import Keyring, Sealed
from meterline_ingest.keys.rules import FINGERPRINT_KEY, Purpose, WrappedKey, sealing_key
from meterline_ingest.keys.store import SETTLING
from meterline_ingest.keys.vault import MEMORY_SECONDS

pytestmark = pytest.mark.req("T4.3")

MASTERS = MasterKeys({"one": bytes(range(32))})
ACME, BOLT = 1, 2


def key(key_id: int, tenant_id: int = ACME, *, settled: bool = True, shredded: bool = False) -> WrappedKey:
    purpose = Purpose.SEALING if key_id else Purpose.FINGERPRINTS
    wrapped = None if shredded else MASTERS.wrap(new_secret(), tenant_id, key_id, purpose)
    return WrappedKey(tenant_id, key_id, purpose, wrapped, "one", settled)


def ring(*keys: WrappedKey, tenant_id: int = ACME, sealed: Sealed | None = None) -> Keyring:
    return Keyring(tenant_id, keys, MASTERS, Sealed() if sealed is None else sealed)


def test_the_newest_key_seals_and_all_open() -> None:
    fingerprints, first, second = key(0), key(1), key(2)
    before = ring(fingerprints, first)
    old = before.seal("t", "c", b"row", b"text")
    after = ring(fingerprints, first, second)
    new = after.seal("t", "c", b"row", b"text")
    assert (key_id_of(old), key_id_of(new)) == (1, 2)
    assert after.unseal("t", "c", b"row", old) == after.unseal("t", "c", b"row", new) == b"text"


def test_only_values_of_earlier_keys_need_to_be_sealed_anew() -> None:
    keys = [key(0), key(1), key(2), key(3, settled=False)]
    old = ring(*keys[:2]).seal("t", "c", b"row", b"text")
    newest = ring(*keys[:3], key(3)).seal("t", "c", b"row", b"text")
    now = ring(*keys)
    current = now.seal("t", "c", b"row", b"text")
    assert key_id_of(current) == 2, "the third is not known everywhere yet"
    assert [now.needs_reseal(value) for value in (old, current, newest)] == [True, False, False]
    assert now.sealed_before == first_of(2)


@given(st.lists(st.floats(0, 60), min_size=1, max_size=8), st.data())
def test_whoever_reads_knows_the_key_that_somebody_else_sealed_with(
    rotations: list[float], data: st.DataObject
) -> None:
    """Replicas see the keys as they were up to a memory's length ago, each at a time of its own."""
    created = dict(enumerate(sorted(rotations), 1))
    wrapped = {key_id: key(key_id) for key_id in created}

    def seen(at: float) -> list[WrappedKey]:
        settled = at - SETTLING / timedelta(seconds=1)
        return [
            WrappedKey(ACME, key_id, Purpose.SEALING, wrapped[key_id].wrapped, "one", made <= settled)
            for key_id, made in created.items()
            if made <= at
        ]

    writer_looked = data.draw(st.floats(created[1], 80))
    sealed_at = writer_looked + data.draw(st.floats(0, MEMORY_SECONDS))
    reader_looked = sealed_at + data.draw(st.floats(-MEMORY_SECONDS, 20))
    assume(reader_looked >= created[1])  # that there is no key is never remembered
    used = sealing_key(seen(writer_looked))
    assert used in {known.key_id for known in seen(reader_looked)}


def test_two_keys_that_nobody_has_settled_on_leave_the_first() -> None:
    assert sealing_key([key(0), key(1, settled=False), key(2, settled=False)]) == 1
    assert sealing_key([]) is None


def test_seals_are_counted_by_key() -> None:
    sealed = Sealed()
    keys = [key(0), key(1)]
    for _ in range(3):
        ring(*keys, sealed=sealed).seal("t", "c", b"row", b"text")
    ring(*keys, key(2), sealed=sealed).seal("t", "c", b"row", b"text")
    ring(*keys, sealed=sealed).fingerprint(b"text")
    assert sealed == {(ACME, 1): 3, (ACME, 2): 1}


def test_a_fingerprint_outlives_rotation_and_is_the_tenants_own() -> None:
    fingerprints, first = key(0), key(1)
    one, rotated = ring(fingerprints, first), ring(fingerprints, first, key(2))
    other = ring(key(0, BOLT), key(1, BOLT), tenant_id=BOLT)
    assert len(one.fingerprint(b"text")) == 16
    assert one.fingerprint(b"text") == rotated.fingerprint(b"text")
    assert one.fingerprint(b"text") != one.fingerprint(b"texts")
    assert one.fingerprint(b"text") != other.fingerprint(b"text")


def test_another_tenant_opens_nothing_whatever_keys_it_is_given() -> None:
    keys = [key(0), key(1)]
    sealed = ring(*keys).seal("t", "c", b"row", b"text")
    for stranger in (ring(key(0, BOLT), key(1, BOLT), tenant_id=BOLT), ring(*keys, tenant_id=BOLT)):
        with pytest.raises(TamperedError):
            stranger.unseal("t", "c", b"row", sealed)


def test_the_key_of_fingerprints_seals_nothing() -> None:
    sealed = first_of(FINGERPRINT_KEY) + bytes(28)
    with pytest.raises(TamperedError, match="no such key"):
        ring(key(0), key(1)).unseal("t", "c", b"row", sealed)


def test_what_does_not_open_is_counted_and_says_where() -> None:
    before = metrics.TAMPERED_VALUES.labels("things")._value.get()
    with pytest.raises(TamperedError, match=r"things\.secret"):
        ring(key(0), key(1)).unseal("things", "secret", b"row", b"no sealed value")
    assert metrics.TAMPERED_VALUES.labels("things")._value.get() == before + 1


def test_after_shredding_everything_is_refused() -> None:
    sealed = ring(key(0), key(1)).seal("t", "c", b"row", b"text")
    gone = ring(key(0, shredded=True), key(1, shredded=True))
    with pytest.raises(ShreddedError):
        gone.seal("t", "c", b"row", b"text")
    with pytest.raises(ShreddedError):
        gone.unseal("t", "c", b"row", sealed)
    with pytest.raises(ShreddedError):
        gone.fingerprint(b"text")
    assert gone.shredded
    assert not gone.needs_reseal(sealed)


def test_without_keys_there_is_nothing_to_open() -> None:
    none = ring()
    assert (none.exists, none.shredded) == (False, False)
    with pytest.raises(TamperedError):
        none.unseal("t", "c", b"row", ring(key(0), key(1)).seal("t", "c", b"row", b"text"))
    with pytest.raises(FailedPreconditionError, match="no keys yet"):
        none.seal("t", "c", b"row", b"text")


def test_a_master_key_that_this_process_lacks_is_no_tampering() -> None:
    elsewhere = MasterKeys({"two": bytes(range(1, 33))})
    wrapped = elsewhere.wrap(new_secret(), ACME, 1, Purpose.SEALING)
    keyring = ring(key(0), WrappedKey(ACME, 1, Purpose.SEALING, wrapped, "two", True))
    with pytest.raises(UnavailableError):
        keyring.seal("t", "c", b"row", b"text")


def test_a_keyring_shows_no_key() -> None:
    keyring = ring(key(0), key(1))
    keyring.seal("t", "c", b"row", b"text")
    assert "wrapped" not in repr(key(1))
    assert not hasattr(keyring, "__dict__")
