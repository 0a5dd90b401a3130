"""What each service may do on the broker, derived from the table of facts.

Every service has a user of its own, named like the service. It may publish its own facts, pull and
acknowledge the facts that it consumes, and read the answers to its own requests. It may create the streams of
these facts and ask about them, but not change, empty or delete them. The broker refuses everything else.

`python -m meterline.bus.permissions` prints the block for the configuration of a broker.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meterline.bus.subjects import FACTS, Fact, consumer_subjects, facts_of, stream_subjects

_NOTE: Final = """\
# The users of Meterline's services, derived from the table of facts. The broker reads their passwords from
# environment variables; a value that is not a plain word needs quotes inside the variable.
"""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish to and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox_prefix(user: str) -> str:
    """Where a user receives answers: nobody else may subscribe there."""
    return f"_INBOX.{user}"


def services(facts: Sequence[Fact] = FACTS) -> list[str]:
    """Every service that publishes or consumes a fact, sorted."""
    return sorted({service for fact in facts for service in (fact.publisher, *fact.consumers)})


def permissions_of(service: str, facts: Sequence[Fact] = FACTS) -> Permissions:
    """What the user of a service may do; nothing but listen to its inbox when it has no facts."""
    publish: list[str] = []
    for fact in facts_of(service, facts):
        publish += stream_subjects(fact)
        if fact.publisher == service:
            publish.append(fact.subject)
        if service in fact.consumers:
            publish += consumer_subjects(fact, service)
    return Permissions(tuple(publish), (f"{inbox_prefix(service)}.>",))


def authorization(passwords: Mapping[str, str], facts: Sequence[Fact] = FACTS) -> dict[str, Any]:
    """The `authorization` block of a broker's configuration, as JSON values, with a user for every service.

    `passwords` has one for each of `services(facts)`, in plain text or as bcrypt. Raises KeyError when one is
    missing.
    """
    users = []
    for service in services(facts):
        granted = permissions_of(service, facts)
        users.append(
            {
                "user": service,
                "password": passwords[service],
                "permissions": {
                    "publish": {"allow": list(granted.publish)},
                    "subscribe": {"allow": list(granted.subscribe)},
                },
            }
        )
    return {"users": users}


def password_variable(service: str) -> str:
    """The environment variable in which a broker with the printed block finds a service's password."""
    return f"METERLINE_NATS_PASSWORD_{service.upper()}"


def configuration(facts: Sequence[Fact] = FACTS) -> str:
    """The block as text for a broker's configuration file, with variables in place of the passwords."""
    variables = {service: f"${password_variable(service)}" for service in services(facts)}
    text = json.dumps({"authorization": authorization(variables, facts)}, indent=2)
    for variable in variables.values():
        # In quotes NATS would take the variable's name as the password.
        text = text.replace(f'"{variable}"', variable)
    # Without the outer braces the block can be pasted among other settings.
    return _NOTE + text.removeprefix("{\n").removesuffix("\n}") + "\n"


if __name__ == "__main__":
    sys.stdout.write(configuration())
