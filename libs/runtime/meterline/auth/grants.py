"""What each service may ask of the others, whatever its own tokens claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meterline.auth.principals import Permission

_READ_AND_INTERNAL: Final = frozenset({Permission.READ, Permission.INTERNAL})

SERVICES: Final[Mapping[str, frozenset[Permission]]] = {
    # Plans of the publisher.
    "identity": frozenset({Permission.READ}),
    # Tenants, API keys and signing keys of identity; effects of corrections of aggregate and the publisher.
    "ingest": _READ_AND_INTERNAL,
    # Totals, events and event types of ingest, API keys of identity.
    "aggregate": _READ_AND_INTERNAL,
    # Usage of aggregate, events of ingest, API keys of identity.
    "publisher": _READ_AND_INTERNAL,
}
"""By the name of the service. A test compares it with the calls that each service makes."""
