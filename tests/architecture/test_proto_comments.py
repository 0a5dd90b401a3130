"""Proto comments name existing codes and permissions, and say more than the names do.

buf checks that every element has a comment (COMMENTS in buf.yaml, `make protos-check`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

import grpc
import pytest
from meterline.config import ServiceSettings

from tests.architecture.protos import Element, elements
from tests.architecture.reasons import Reasons, collect
from tests.architecture.test_access import rules
from tests.architecture.tree import ROOT, SERVICES, sources

pytestmark = pytest.mark.req("K5")

_STATUSES: Final = frozenset(code.name for code in grpc.StatusCode)
# A code in backticks; without backticks only words that cannot be ordinary words in capitals.
_MARKED: Final = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)`")
_PLAIN: Final = re.compile(r"(?<![`\w])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![`\w])")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_SAYS_NOTHING: Final = frozenset(
    ("a", "an", "the", "of", "its", "this", "that", "is", "for", "in", "to", "it")
)
_CALLS: Final = ("rpc", "service")
_SERVERS: Final = ("libs/runtime", "services")


@cache
def known_reasons() -> Reasons:
    return collect(sources(*_SERVERS))


@cache
def values() -> frozenset[str]:
    """Names of enum values, with and without the prefix of their enum."""
    names = [each.name.split(".") for each in elements() if each.kind == "value"]
    short = (
        value.removeprefix(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum).upper() + "_")
        for *_, enum, value in names
    )
    return frozenset(value for *_, value in names).union(short)


@cache
def settings() -> frozenset[str]:
    """The environment variables of all services."""
    modules = [import_module(f"meterline_{service}.settings") for service in SERVICES]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    fields = [name for kind in kinds if issubclass(kind, ServiceSettings) for name in kind.model_fields]
    return frozenset(f"METERLINE_{name.upper()}" for name in fields)


def unknown_codes(comment: str, *, of_call: bool = True) -> list[str]:
    """Codes in a comment that are no gRPC status, reason in the code, enum value or setting.

    of_call: whether the comment is of an RPC or a service, where every code is of an error; elsewhere only
        codes with an underscore in backticks count, since others are examples, such as `USD`
    """
    marked = [name for name in _MARKED.findall(comment) if of_call or "_" in name]
    named = {*marked, *(_PLAIN.findall(comment) if of_call else ())}
    known = _STATUSES | values() | settings()
    return sorted(name for name in named if not (name in known or known_reasons().has(name)))


def wrong_pairs(comment: str) -> Iterator[str]:
    """Reasons in backticks after a status with which they are never raised."""
    status = ""
    for name in _MARKED.findall(comment):
        if name in _STATUSES:
            status = name
        elif status and status not in known_reasons().statuses.get(name, [status]):
            yield f"{status} with {name}"


def words(text: str) -> set[str]:
    """The words of a name or a comment, in the singular, without stop words."""
    return {word.lower().removesuffix("s") for word in _WORD.findall(text)} - _SAYS_NOTHING


def repeats_its_name(element: Element) -> bool:
    """Whether all words of a comment are in the name of the element or of its parent."""
    own = element.name.split(".v1.")[-1]
    return bool(element.comment) and words(element.comment) <= words(own)


def hidden_permissions(found: Collection[Element]) -> list[str]:
    """RPCs without the required permission in their comment or that of their service.

    Leaves out the parts of the tree that buf.yaml exempts from comments.
    """
    ignored = re.findall(r"protos/(meterline/\w+)", (ROOT / "buf.yaml").read_text(encoding="utf-8"))
    services = {each.name: each.comment for each in found if each.kind == "service"}
    hidden = []
    for each in found:
        service, _, method = each.name.rpartition(".")
        if each.kind != "rpc" or any(service.startswith(part.replace("/", ".")) for part in ignored):
            continue
        permission = rules()[f"{service}/{method}"].permission
        if permission is not None and f"`{permission.value}`" not in each.comment + services[service]:
            hidden.append(f"{each.name}: {permission.value}")
    return hidden


def test_statuses_and_reasons_in_comments_exist() -> None:
    wrong = [
        f"{each.name}: {code}"
        for each in elements()
        for code in unknown_codes(each.comment, of_call=each.kind in _CALLS)
    ]
    assert wrong == []


def test_reasons_in_comments_of_rpcs_come_with_their_status() -> None:
    documented = [each for each in elements() if each.kind in _CALLS]
    assert [f"{each.name}: {pair}" for each in documented for pair in wrong_pairs(each.comment)] == []


def test_comments_of_rpcs_name_the_required_permission() -> None:
    assert hidden_permissions(elements()) == []


def test_comments_say_more_than_names() -> None:
    assert [each.name for each in elements() if repeats_its_name(each)] == []


def test_comments_of_all_kinds_of_elements_are_found() -> None:
    """Otherwise a change of the format of comments could disable these tests."""
    kinds = {each.kind for each in elements() if each.comment}
    assert kinds >= {"message", "field", "enum", "value", "service", "rpc"}


@pytest.mark.parametrize(
    "code", ["METER_REFERRED_TO", "PRICE_TIER_ORDER", "NOT_FOUND", "GRAIN_MONTH", "LATE_USAGE"]
)
def test_existing_codes_are_known(code: str) -> None:
    assert unknown_codes(f"Fails with `{code}`, or {code}.") == []


@pytest.mark.parametrize("text", ["`METER_MISSING`", "METER_MISSING", "`MISSING`", "`PRICE_TIER_ODOUR`"])
def test_unknown_code_is_caught(text: str) -> None:
    assert unknown_codes(f"`NOT_FOUND`, or fails with {text}.") == [text.strip("`")]


def test_reason_with_a_wrong_status_is_caught() -> None:
    comment = "`FAILED_PRECONDITION` with `PLAN_ARCHIVED`; `NOT_FOUND` with `PLAN_UNKNOWN`."
    assert list(wrong_pairs(comment)) == ["NOT_FOUND with PLAN_UNKNOWN"]


def test_wrong_permission_is_caught() -> None:
    service = Element("service", "meterline.identity.v1.TenantsService", "Every call needs `read`.")
    onboard = Element("rpc", f"{service.name}.OnboardTenant", "Needs the permission `operate`.")
    get = Element("rpc", f"{service.name}.GetTenant", "Returns a tenant.")
    assert hidden_permissions([service, onboard, get]) == [f"{onboard.name}: tenants"]


def test_comment_that_repeats_the_name_is_caught(tmp_path: Path) -> None:
    (tmp_path / "buf.yaml").write_text("version: v2\n", encoding="utf-8")
    (tmp_path / "planted.proto").write_text(
        'syntax = "proto3";\n'
        "package meterline.planted.v1;\n"
        "// Keeps a planted thing.\n"
        "message Planted {\n"
        "  // The ids of the event.\n"
        "  repeated string event_ids = 1;\n"
        "  // UUIDs of events.\n"
        "  repeated string found_ids = 2;\n"
        "  optional string undocumented = 3;\n"
        "}\n",
        encoding="utf-8",
    )
    found = elements(tmp_path)
    assert [each.name for each in found if repeats_its_name(each)] == [
        "meterline.planted.v1.Planted.event_ids"
    ]
    assert [each.name for each in found if not each.comment] == ["meterline.planted.v1.Planted.undocumented"]
