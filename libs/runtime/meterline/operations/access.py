"""What the calls that every consuming service answers demand: dead letters hold messages of all tenants."""

from __future__ import annotations

from typing import Final

from meterline.auth.principals import Permission
from meterline.auth.rules import Reach, Rule, Rules

_SERVICE: Final = "meterline.operations.v1.DeadLettersService"

RULES: Final[Rules] = {
    f"{_SERVICE}/ListDeadLetters": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_SERVICE}/RedriveDeadLetters": Rule(Permission.OPERATE, Reach.EVERYBODY),
}
