"""The immutable set of rules that prices one invoice, identified by its content."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from zoneinfo import ZoneInfo

from meterline.calendar import instant

from meterline_publisher.billing.canonical import Json
from meterline_publisher.prices.rules.prices import Flat
from meterline_publisher.prices.rules.versions import PriceVersion, VersionError, pinned

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Rule:
    """One version of the price of one meter in one plan.

    `event_name` is the meter's name at the billing provider, empty if nothing is sent for it; values are sent
    multiplied by 10^`scale`.
    """

    plan: str
    meter: str
    version: PriceVersion
    description: str
    event_name: str
    scale: int

    @property
    def rule_id(self) -> str:
        return f"{self.plan}/{self.meter}"

    @property
    def digest(self) -> str:
        return self.version.price.digest()

    @property
    def needs_usage(self) -> bool:
        """Whether the amount or the provider depends on usage; a flat fee that is not sent does not."""
        return bool(self.event_name) or not isinstance(self.version.price.model, Flat)

    def sent_as(self, event_name: str, scale: int) -> Rule:
        """The rule with other delivery settings."""
        return replace(self, event_name=event_name, scale=scale)

    def line(self) -> str:
        """`id|version|from|sha256(body)`: the input for the digest of a rule set.

        The end of a version's validity is omitted: it is unknown until the next version is put, and would
        then change the id of rule sets that rated earlier periods.
        """
        start = self.version.effective_from.isoformat()
        return f"{self.rule_id}|{self.version.version}|{start}|{self.digest}"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """At most one rule per meter, ordered by meter."""

    rules: tuple[Rule, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the rules' lines, 64 lower-case hexadecimal digits."""
        return hashlib.sha256("\n".join(sorted(rule.line() for rule in self.rules)).encode()).hexdigest()

    @property
    def rule_set_id(self) -> uuid.UUID:
        """Computed from the content, so that equal rule sets have one id, whoever stores them first."""
        return uuid.UUID(bytes=bytes.fromhex(self.digest)[:_ID_BYTES])

    def versions(self) -> list[Json]:
        """[[rule id, version], …], as calculations store them."""
        return [[rule.rule_id, rule.version.version] for rule in self.rules]


def choose(catalogue: Iterable[Rule], period_start: datetime, zone: ZoneInfo) -> RuleSet:
    """The rules of a plan for a period: for each meter the version in force in `zone` at the period's start.

    `catalogue` contains all versions of one plan. Contradicting versions are a VersionError; a meter without
    a version in force is not priced.
    """
    rules = []
    ordered = sorted(catalogue, key=attrgetter("meter"))
    for _, group in groupby(ordered, key=attrgetter("meter")):
        versions = {rule.version.version: rule for rule in group}
        number = _in_force(versions, period_start, zone)
        if number is not None:
            rules.append(versions[number])
    return RuleSet(tuple(rules))


def of_final_invoice(catalogue: Iterable[Rule], versions: Mapping[str, int]) -> RuleSet:
    """The rules of a final invoice: for each meter the version that priced it, whatever was put since.

    A version missing in the catalogue is a VersionError; versions that priced something are never withdrawn.
    """
    rules = {rule.meter: rule for rule in catalogue if versions.get(rule.meter) == rule.version.version}
    if missing := versions.keys() - rules.keys():
        raise VersionError(f"the version that priced {', '.join(sorted(missing))} is missing")
    return RuleSet(tuple(rules[meter] for meter in sorted(rules)))


def _in_force(versions: Mapping[int, Rule], at: datetime, zone: ZoneInfo) -> int | None:
    if all(rule.version.start_in(zone) > instant(at) for rule in versions.values()):
        return None
    return pinned([rule.version for rule in versions.values()], at, zone).version
