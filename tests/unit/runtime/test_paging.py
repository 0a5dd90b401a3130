"""Page tokens carry a sort key there and back, and nothing else gets through."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.errors import InvalidArgumentError
from meterline.rpc import paging

pytestmark = pytest.mark.req("T4.1")

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(INTEGERS, TEXTS)
def test_a_key_comes_back(number: int, text: str) -> None:
    assert paging.key(paging.token(number, text), int, str) == (number, text)


def test_no_token_is_the_first_page() -> None:
    assert paging.key("", int) is None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@given(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(lambda raw: base64.b64encode(raw).decode())))
def test_anything_else_is_refused_by_name(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        paging.key(token, str, int, str)
    assert caught.value.field == "page_token"


@pytest.mark.parametrize(
    "value",
    [[], [1, 2], ["1"], [1.0], [True], [None], [2**63], {"0": 1}, "x", [[1]], "[" * 100_000],
    ids=lambda value: repr(value)[:20],
)
def test_a_token_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError):
        paging.key(encoded(value), int)


@pytest.mark.parametrize("code_point", [0, 0xD800, 0xDFFF])
def test_text_that_postgres_cannot_hold_is_refused(code_point: int) -> None:
    with pytest.raises(InvalidArgumentError):
        paging.key(encoded([f"a{chr(code_point)}b"]), str)


def test_nesting_does_not_exhaust_the_stack() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(InvalidArgumentError):
        paging.key(deep, int)


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (1_000, 1_000), (1_001, 1_000)])
def test_the_size_of_a_page_is_bounded(asked: int, given_: int) -> None:
    assert paging.size(asked) == given_
