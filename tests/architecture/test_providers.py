"""Knowledge of a billing provider is confined to its package, behind `BillingProvider.capabilities`."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.architecture.tree import ROOT, name_of

pytestmark = pytest.mark.req("S8")

PUBLISHER: Final = ROOT / "services" / "publisher" / "meterline_publisher"
STRIPE: Final = PUBLISHER / "providers" / "stripe"
# Settings contain the account's key; main chooses the provider by them, or names the missing setting.
CHOICE: Final = frozenset(PUBLISHER / name for name in ("main.py", "settings.py", "providers/none.py"))
# Stripe's name, its terms, and its limits: digits of a value, and how long it remembers identifiers.
FACT: Final = re.compile(
    r"stripe|meter_event\b|meter events?\b|\bcus_|\bsub_\w|event_summar"
    r"|(?:digits|hours|longest|length)\w*\s*[=<>(]+\s*(?:15|23|24|100)\b",
    re.IGNORECASE,
)
# Code must ask a provider for its capabilities, not for its class.
BY_CLASS: Final = re.compile(r"isinstance\([^()]*\b(?:Stripe|No|Billing)Provider\)")


def test_stripe_is_unknown_outside_its_package() -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in sorted(PUBLISHER.rglob("*"))
        if path.suffix in (".py", ".sql")
        and STRIPE not in path.parents
        and path not in CHOICE
        # Released migrations never change, and rows before them had this provider.
        and "migrations" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FACT.search(line)
    ]
    assert found == []


def test_no_code_checks_the_class_of_a_provider() -> None:
    found = [
        f"{name_of(path)}:{number}"
        for path in sorted(PUBLISHER.rglob("*.py"))
        if path not in CHOICE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BY_CLASS.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["MAX_DIGITS = 15", "timedelta(hours=23)", "Stripe finalises", "one meter event", "MAX_LENGTH = 100"],
)
def test_rule_recognises_knowledge_of_stripe(line: str) -> None:
    assert FACT.search(line)
