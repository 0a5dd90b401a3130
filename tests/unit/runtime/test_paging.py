"""Page tokens round-trip a sort key; any other token is refused."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meterline.clock import to_us
from meterline.errors import InvalidArgumentError
from meterline.rpc import fields, paging

pytestmark = pytest.mark.req("T4.1", "T8.3")

INT4 = st.integers(-(2**31), 2**31 - 1)
INT8 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
LAST = fields.LATEST - timedelta(microseconds=1)
INSTANTS = st.datetimes(
    fields.EARLIEST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)
)
AN_ID = uuid.UUID(int=7)


@given(INT8, TEXTS)
def test_numbers_and_text_round_trip(number: int, text: str) -> None:
    assert paging.key(paging.token(number, text), paging.int8, paging.text) == (number, text)


@given(INSTANTS, st.uuids(), INT4)
def test_times_ids_and_small_numbers_round_trip(moment: datetime, name: uuid.UUID, number: int) -> None:
    token = paging.token(moment, name, number)
    assert paging.key(token, paging.instant, paging.identifier, paging.int4) == (moment, name, number)


def test_empty_token_is_the_first_page() -> None:
    assert paging.key("", paging.int8) is None


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def refused(token: str, *kinds: Any) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        paging.key(token, *kinds)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    return caught.value


@given(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(lambda raw: base64.b64encode(raw).decode())))
def test_malformed_token_is_refused_by_field(token: str) -> None:
    assert refused(token, paging.text, paging.int8, paging.text).field == "page_token"


def test_token_of_another_field_is_refused_by_field() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        paging.key("?", paging.int8, field="resume_token")
    assert caught.value.field == "resume_token"


@pytest.mark.parametrize(
    "value",
    [[], [1, 2], ["1"], [1.0], [True], [None], [2**63], {"0": 1}, "x", [[1]], "[" * 100_000],
    ids=lambda value: repr(value)[:20],
)
def test_token_with_other_parts_is_refused(value: object) -> None:
    refused(encoded(value), paging.int8)


@pytest.mark.parametrize("code_point", [0, 0xD800, 0xDFFF])
def test_text_that_postgres_cannot_hold_is_refused(code_point: int) -> None:
    refused(encoded([f"a{chr(code_point)}b"]), paging.text)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**62])
def test_number_out_of_the_column_range_is_refused(number: int) -> None:
    refused(encoded([number]), paging.int4)


@pytest.mark.parametrize(
    "us", [to_us(fields.EARLIEST) - 1, to_us(fields.LATEST), 2**62, -(2**63), 10**40], ids=str
)
def test_time_out_of_range_is_refused(us: int) -> None:
    refused(encoded([us]), paging.instant)


@pytest.mark.parametrize("text", ["", "x", AN_ID.hex, f"{{{AN_ID}}}", f"urn:uuid:{AN_ID}", "٣" * 32])
def test_id_in_another_notation_is_refused(text: str) -> None:
    refused(encoded([text]), paging.identifier)


def test_deep_or_long_token_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 10_000).decode()
    refused(deep, paging.int8)
    refused(paging.token("x" * paging.MAX_TOKEN), paging.text)


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (1_000, 1_000), (1_001, 1_000)])
def test_page_size_is_bounded(asked: int, given_: int) -> None:
    assert paging.size(asked) == given_
