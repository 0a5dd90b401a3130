"""The current master key wraps tenants' keys; a wrapped key unwraps only unchanged and as itself."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.crypto.envelope import new_secret
from meterline.crypto.master_keys import WRAPPED_BYTES, MasterKeys
from meterline.errors import TamperedError, UnavailableError

pytestmark = pytest.mark.req("T4.3")

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def encoded(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.sampled_from(["sealing", "fingerprints"]))
def test_wrapped_key_round_trips(tenant_id: int, key_id: int, purpose: str) -> None:
    masters, secret = MasterKeys({"a": OLD}), new_secret()
    wrapped = masters.wrap(secret, tenant_id, key_id, purpose)
    assert len(wrapped) == WRAPPED_BYTES
    assert secret not in wrapped
    assert masters.unwrap(wrapped, "a", tenant_id, key_id, purpose) == secret


@given(st.integers(0, WRAPPED_BYTES * 8 - 1))
def test_tampered_wrapped_key_is_refused(bit: int) -> None:
    masters = MasterKeys({"a": OLD})
    wrapped = bytearray(masters.wrap(new_secret(), 7, 1, "sealing"))
    wrapped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TamperedError):
        masters.unwrap(bytes(wrapped), "a", 7, 1, "sealing")


@pytest.mark.parametrize(
    ("master_id", "tenant_id", "key_id", "purpose"),
    [("a", 8, 1, "sealing"), ("a", 7, 2, "sealing"), ("a", 7, 1, "fingerprints"), ("b", 7, 1, "sealing")],
)
def test_wrapped_key_unwraps_only_under_its_own_identity(
    master_id: str, tenant_id: int, key_id: int, purpose: str
) -> None:
    masters = MasterKeys({"a": OLD, "b": NEW})
    wrapped = masters.wrap(new_secret(), 7, 1, "sealing")
    with pytest.raises(TamperedError):
        masters.unwrap(wrapped, master_id, tenant_id, key_id, purpose)


def test_key_of_wrong_length_is_refused() -> None:
    masters = MasterKeys({"a": OLD})
    wrapped = masters.wrap(new_secret(), 7, 1, "sealing")
    for changed in (b"", wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(TamperedError):
            masters.unwrap(changed, "a", 7, 1, "sealing")


def test_first_master_key_wraps_and_all_unwrap() -> None:
    secret = new_secret()
    wrapped = MasterKeys.parse(f"old:{encoded(OLD)}").wrap(secret, 7, 1, "sealing")
    both = MasterKeys.parse(f"new:{encoded(NEW)}, old:{encoded(OLD)}")
    assert both.current_id == "new"
    assert both.unwrap(wrapped, "old", 7, 1, "sealing") == secret
    again = both.wrap(secret, 7, 1, "sealing")
    assert MasterKeys.parse(f"new:{encoded(NEW)}").unwrap(again, "new", 7, 1, "sealing") == secret


def test_missing_master_key_has_its_own_error() -> None:
    wrapped = MasterKeys({"old": OLD}).wrap(new_secret(), 7, 1, "sealing")
    with pytest.raises(UnavailableError, match="'old'"):
        MasterKeys({"new": NEW}).unwrap(wrapped, "old", 7, 1, "sealing")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        f":{encoded(OLD)}",
        f"a b:{encoded(OLD)}",
        f"a:{encoded(OLD)[:-2]}",
        f"a:{encoded(OLD[:31])}",
        f"a:{encoded(OLD + b'x')}",
        f"a:{encoded(OLD)},",
        f"a:{encoded(OLD)},a:{encoded(NEW)}",
        f"a:{encoded(OLD)},b:{encoded(OLD)}",
        f"a:{encoded(OLD)} b:{encoded(NEW)}",
    ],
)
def test_malformed_master_keys_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"master key|base64") as caught:
        MasterKeys.parse(text)
    assert encoded(OLD)[:8] not in str(caught.value)


def test_keys_are_not_shown() -> None:
    masters = MasterKeys.parse(f"new:{encoded(NEW)},old:{encoded(OLD)}")
    assert repr(masters) == str(masters) == "MasterKeys(new, old)"
