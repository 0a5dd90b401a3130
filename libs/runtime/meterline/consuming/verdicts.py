"""The outcomes of handled messages that are certain, and when a failure is final."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from meterline.consuming.breaker import BurialRules
from meterline.consuming.delivery import Delivery, text_of
from meterline.consuming.parts import Sorted
from meterline.errors import Poison, UnavailableError


@dataclass(frozen=True, slots=True)
class Unappliable:
    """A message that can never be applied; `found` when some of its parts can."""

    error: Poison
    found: Sorted | None = None


Verdicts = Mapping[uuid.UUID, Unappliable | None]
"""By message: None for those that were applied, and why others never can be. What waits is not in it."""


def as_final(delivery: Delivery, error: Exception, rules: BurialRules) -> Poison | None:
    """Why the message can never be applied; None when it may be yet."""
    if isinstance(error, Poison):
        return error
    if isinstance(error, UnavailableError) or delivery.waited < rules.patience:
        return None
    return Poison(f"{text_of(error)}; given up after {rules.patience:.0f} s")
