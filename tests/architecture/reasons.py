"""Collects reasons of errors for architecture tests: stable codes in upper case that callers receive."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.architecture.tree import called, identifier, parsed

CODE: Final = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
# The position of the reason among the arguments of an error class, from 0.
PLACES: Final = {
    "InvalidArgumentError": 2,
    "UnauthenticatedError": 1,
    "PermissionDeniedError": 1,
    "FailedPreconditionError": 2,
}
# The gRPC status of each error class, as in `meterline.rpc.errors`.
STATUSES: Final = {
    "InvalidArgumentError": "INVALID_ARGUMENT",
    "UnauthenticatedError": "UNAUTHENTICATED",
    "PermissionDeniedError": "PERMISSION_DENIED",
    "FailedPreconditionError": "FAILED_PRECONDITION",
    "NotBillableError": "FAILED_PRECONDITION",
    "ShreddedError": "FAILED_PRECONDITION",
    "TamperedError": "DATA_LOSS",
    "OverloadedError": "RESOURCE_EXHAUSTED",
    "QuotaError": "RESOURCE_EXHAUSTED",
}


@dataclass(frozen=True, slots=True)
class Reasons:
    """Reasons found in the sources.

    codes: every text and every member of an enum that could be a reason
    prefixes: beginnings that are combined with another reason, for example `PRICE_`
    suffixes: ends that are combined with a name, for example `_OUT_OF_SCOPE`
    statuses: by reason, the statuses with which it is raised, where both appear in one expression
    """

    codes: frozenset[str]
    prefixes: frozenset[str]
    suffixes: frozenset[str]
    statuses: Mapping[str, Collection[str]]

    def has(self, reason: str) -> bool:
        composed = any(
            reason.startswith(prefix) and reason.removeprefix(prefix) in self.codes
            for prefix in self.prefixes
        )
        return reason in self.codes or composed or any(map(reason.endswith, self.suffixes))


def reason_of(call: ast.Call, place: int) -> ast.expr | None:
    """The argument of an error that holds its reason, if there is one."""
    named = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    return named[0] if named else call.args[place] if len(call.args) > place else None


def collect(paths: Iterable[Path]) -> Reasons:
    codes: set[str] = set()
    prefixes: set[str] = set()
    suffixes: set[str] = set()
    statuses: defaultdict[str, set[str]] = defaultdict(set)
    for path in paths:
        for node in ast.walk(parsed(path)):
            codes.update(_codes(node))
            if isinstance(node, ast.JoinedStr):
                prefixes.update(_prefixes(node))
                suffixes.update(_suffixes(node))
            for status, reason in _raised(node):
                statuses[reason].add(status)
    return Reasons(frozenset(codes), frozenset(prefixes), frozenset(suffixes), statuses)


def _codes(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)) if CODE.fullmatch(text):
            yield text
        case ast.ClassDef(bases=bases, body=body) if any(identifier(base).endswith("Enum") for base in bases):
            yield from (identifier(each.targets[0]) for each in body if isinstance(each, ast.Assign))


def _prefixes(text: ast.JoinedStr) -> Iterator[str]:
    match text.values:
        case [ast.Constant(value=str(first)), ast.FormattedValue()] if CODE.fullmatch(first[:-1]):
            yield first


def _suffixes(text: ast.JoinedStr) -> Iterator[str]:
    match text.values:
        case [ast.FormattedValue(), ast.Constant(value=str(last))] if CODE.fullmatch(last[1:]):
            yield last


def _raised(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(status, reason) of a raised error, or of an error class with a fixed reason."""
    match node:
        case ast.Call() if (name := called(node)) in PLACES:
            match reason_of(node, PLACES[name]):
                case ast.Constant(value=str(reason)):
                    yield STATUSES[name], reason
        case ast.Call(args=[ast.Attribute(value=ast.Name(id="GapReason"), attr=reason), *_]) if (
            called(node) == "NotBillableError"
        ):
            yield STATUSES["NotBillableError"], reason
        case ast.ClassDef(name=name, body=body) if name in STATUSES:
            for each in body:
                match each:
                    case ast.Assign(targets=[ast.Name(id="reason")], value=ast.Constant(value=str(reason))):
                        yield STATUSES[name], reason
