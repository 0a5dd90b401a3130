"""The table of facts agrees with the protos and with the services that publish and consume them."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

import pytest
from meterline.bus import subjects
from meterline.bus.subjects import FACTS, Fact
from meterline_protos.events.v1 import events_pb2

from tests.architecture.tree import (
    ROOT,
    SERVICES,
    calls,
    name_of,
    parsed,
    service_package,
    sources,
)

pytestmark = pytest.mark.req("K2", "K3")

_DESCRIBED = re.compile(
    r"^// Subject `(?P<subject>[^`]+)`, published by (?P<publisher>\w+)[^\n]*\n(?://[^\n]*\n)*"
    r"message (?P<message>\w+) ",
    re.MULTILINE,
)
PACKAGE = events_pb2.DESCRIPTOR.package
_CONSTANTS = {id(fact): name for name, fact in vars(subjects).items() if isinstance(fact, Fact)}
# A fact whose subject has placeholders has a function that fills them in.
_HELPERS = {"events_accepted": subjects.EVENTS_ACCEPTED}


def constant(fact: Fact) -> str:
    return _CONSTANTS[id(fact)]


def messages_of(fact: Fact) -> set[str]:
    """The proto messages that belong to `fact`."""
    found: set[str] = set()
    waiting = [fact.message.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name not in found and message.file.package == PACKAGE:
            found.add(message.name)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found


def local_names(path: Path) -> dict[str, str]:
    """The local names under which a file imports facts of the table."""
    found: dict[str, str] = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module == subjects.__name__:
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "meterline.bus":
            for alias in node.names:
                if alias.name == "subjects":
                    prefix = alias.asname or alias.name
                    found |= {f"{prefix}.{name}": name for name in vars(subjects)}
    return {local: constant(_HELPERS[name]) if name in _HELPERS else name for local, name in found.items()}


def mentioned_facts(service: str) -> dict[str, set[str]]:
    """The facts that a service's code uses in `consume(...)` calls, and elsewhere."""
    consumed: set[str] = set()
    other: set[str] = set()
    for path in sources(name_of(service_package(service))):
        facts = local_names(path)
        inside = {id(node) for call in calls(path, "consume") for node in ast.walk(call)}
        for node in ast.walk(parsed(path)):
            name = facts.get(ast.unparse(node)) if isinstance(node, ast.Name | ast.Attribute) else None
            if name is not None and name in _CONSTANTS.values():
                (consumed if id(node) in inside else other).add(name)
    return {"consumed": consumed, "published": other}


def test_table_of_facts_is_complete_and_unambiguous() -> None:
    assert set(_CONSTANTS) == {id(fact) for fact in FACTS}
    for column in ("subject", "stream"):
        values = [getattr(fact, column) for fact in FACTS]
        assert len(set(values)) == len(values), column
    assert len({fact.message.DESCRIPTOR.full_name for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        assert {fact.publisher, *fact.consumers} <= set(SERVICES)
        assert len(set(fact.consumers)) == len(fact.consumers)


def test_protos_describe_the_same_facts() -> None:
    text = (ROOT / "protos/meterline/events/v1/events.proto").read_text()
    described = {
        (re.sub(r"<\w+>$", ">", match["subject"]), match["publisher"], match["message"])
        for match in _DESCRIBED.finditer(text)
    }
    assert described == {(fact.subject, fact.publisher, fact.message.DESCRIPTOR.name) for fact in FACTS}


def test_every_message_belongs_to_a_fact() -> None:
    used = set(chain.from_iterable(messages_of(fact) for fact in FACTS))
    assert set(events_pb2.DESCRIPTOR.message_types_by_name) == used


@pytest.mark.parametrize("service", SERVICES)
def test_service_consumes_the_facts_of_the_table(service: str) -> None:
    expected = {constant(fact) for fact in FACTS if service in fact.consumers}
    assert mentioned_facts(service)["consumed"] == expected


@pytest.mark.parametrize("service", SERVICES)
def test_service_publishes_the_facts_of_the_table(service: str) -> None:
    expected = {constant(fact) for fact in FACTS if fact.publisher == service}
    assert mentioned_facts(service)["published"] == expected
