"""Event types, tenants and limits shared by the tests of capture's rules."""

from __future__ import annotations

from meterline_ingest.capture.rules.validation import Check, Checked
from meterline_ingest.event.bounds import TimeLimits
from meterline_ingest.event.columns import Columns
from meterline_ingest.event.problems import Problems
from meterline_ingest.event_types.rules.book import TypeBook
from meterline_ingest.event_types.rules.enrichment import Attribute, Enrichment, Entry, EntryKey, WhenMissing
from meterline_ingest.event_types.rules.properties import Kind, Property
from meterline_ingest.event_types.rules.types import Dimension, EventType, Quantity

NOW_US = 1_795_000_000_000_000  # November 2026
LIMITS = TimeLimits(35 * 86_400_000_000, 300_000_000)
TENANTS = {"acme": 1, "bolt": 2, "asleep": None}
_COMMON = {
    "plain": EventType("plain", (Quantity("units", 0, False, True),), (Dimension("region", False),), False),
    "two": EventType(
        "two",
        (Quantity("bytes", 3, False, False), Quantity("units", 2, False, False)),
        (Dimension("region", False), Dimension("tier", False)),
        False,
    ),
    "bounded": EventType(
        "bounded",
        (
            Quantity("x", 9, False, True, minimum=-(10**9), maximum=10**10),
            Quantity("units", 2, True, True, minimum=-500, maximum=900),
            Quantity("bytes", 0, False, False, minimum=1, maximum=5),
        ),
        (Dimension("region", False, values=("eu", "us")),),
        False,
    ),
    "strict": EventType("strict", (Quantity("units", 0, True, False),), (Dimension("region", True),), True),
    "rich": EventType(
        "rich",
        (Quantity("units", 0, False, True),),
        (Dimension("region", False), Dimension("category", False)),
        False,
        (
            Property("product", Kind.TEXT),
            Property("title", Kind.TEXT, max_length=8),
            Property("age", Kind.INTEGER, minimum="0", maximum="150"),
        ),
        (
            Enrichment(
                "products",
                "product",
                (Attribute("category", "category"), Attribute("name", "title")),
                WhenMissing.QUARANTINE,
            ),
        ),
    ),
}
TYPES = TypeBook(_COMMON)
CATALOGUE = {
    EntryKey(1, "products", "p1"): Entry(3, {"category": "shoes", "name": "Boot"}),
    EntryKey(1, "products", "p2"): Entry(1, {"category": "hats", "name": "much too long a name"}),
    EntryKey(2, "products", "p1"): Entry(1, {"name": "Cap"}),
}


def check(columns: Columns, problems: Problems | None = None) -> Checked:
    """The verdict on a batch, with the types, tenants and entries above."""
    return Check(columns, TENANTS, TYPES, problems).verdict(LIMITS, NOW_US, CATALOGUE)
