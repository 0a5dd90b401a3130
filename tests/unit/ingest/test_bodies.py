"""The digest that decides whether two events with one id are equal."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline_ingest.event.digest import body_digest, disguised

pytestmark = pytest.mark.req("T1.2")

pairs = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)
bodies = st.tuples(
    st.text(max_size=3),
    st.text(max_size=3),
    st.integers(0, 3),
    pairs,
    st.dictionaries(st.text(max_size=2), st.integers(-2, 2), max_size=2),
    pairs,
)


class Key:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def fingerprint(self, data: bytes) -> bytes:
        return hmac.new(self._secret, data, hashlib.sha256).digest()[:16]


def digest(body: Any) -> bytes:
    event_type, subject, time, dimensions, quantities, properties = body
    shown = disguised(tuple(properties.items()), (), None)
    return body_digest(event_type, subject, time, tuple(dimensions.items()), quantities, shown)


@given(bodies, bodies)
def test_only_equal_bodies_have_equal_digests(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) is (one == other)


@given(pairs, st.randoms())
def test_digest_is_independent_of_name_order(dimensions: dict[str, str], random: Any) -> None:
    shuffled = list(dimensions.items())
    random.shuffle(shuffled)
    assert body_digest("t", "s", 1, tuple(shuffled), {}) == body_digest(
        "t", "s", 1, tuple(sorted(dimensions.items())), {}
    )


def test_sensitive_values_are_hashed_with_a_key() -> None:
    shown = disguised((("card", "4242"), ("page", "home")), {"card"}, Key(b"tenant 1"))
    assert "4242" not in repr(shown)
    again = disguised((("card", "4242"), ("page", "home")), {"card"}, Key(b"tenant 1"))
    elsewhere = disguised((("card", "4242"), ("page", "home")), {"card"}, Key(b"tenant 2"))
    assert shown == again != elsewhere
