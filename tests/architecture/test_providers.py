"""Facts of a billing provider are in its own package, behind `BillingProvider.capabilities`."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.architecture.tree import ROOT, name_of

pytestmark = pytest.mark.req("S8")

PUBLISHER: Final = ROOT / "services" / "publisher" / "meterline_publisher"
STRIPE: Final = PUBLISHER / "providers" / "stripe"
# Settings name the account's key, main chooses the provider by them, and without one it says which to set.
CHOICE: Final = frozenset(PUBLISHER / name for name in ("main.py", "settings.py", "providers/none.py"))
# What Stripe is called, its own words, and its numbers: digits of a value, and for how long it remembers.
FACT: Final = re.compile(
    r"stripe|meter_event\b|meter events?\b|\bcus_|\bsub_\w|event_summar"
    r"|(?:digits|hours|longest|length)\w*\s*[=<>(]+\s*(?:15|23|24|100)\b",
    re.IGNORECASE,
)
# A kind of provider is asked for what it can do, and not for its class.
BY_CLASS: Final = re.compile(r"isinstance\([^()]*\b(?:Stripe|No|Billing)Provider\)")


def test_nothing_of_stripe_is_known_outside_of_its_package() -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in sorted(PUBLISHER.rglob("*"))
        if path.suffix in (".py", ".sql")
        and STRIPE not in path.parents
        and path not in CHOICE
        # Migrations never change, and the rows of before had this provider.
        and "migrations" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FACT.search(line)
    ]
    assert found == []


def test_no_provider_is_known_by_its_class() -> None:
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
def test_facts_are_recognised(line: str) -> None:
    assert FACT.search(line)
