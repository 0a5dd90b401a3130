"""Who is billed: the sixteen airlines of the data, each a tenant with a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CURRENCY: Final = "USD"
TIME_ZONE: Final = "America/New_York"


@dataclass(frozen=True, slots=True)
class Carrier:
    """`code` is the airline's code in the data; `plan` a plan of `plans.PLANS`."""

    code: str
    name: str
    plan: str

    @property
    def tenant(self) -> str:
        return self.code.lower()


CARRIERS: Final = (
    Carrier("9E", "Endeavor Air", "growth"),
    Carrier("AA", "American Airlines", "scale"),
    Carrier("AS", "Alaska Airlines", "growth"),
    Carrier("B6", "JetBlue Airways", "bulk"),
    Carrier("DL", "Delta Air Lines", "scale"),
    Carrier("EV", "ExpressJet Airlines", "growth"),
    Carrier("F9", "Frontier Airlines", "starter"),
    Carrier("FL", "AirTran Airways", "bulk"),
    Carrier("HA", "Hawaiian Airlines", "growth"),
    Carrier("MQ", "Envoy Air", "growth"),
    Carrier("OO", "SkyWest Airlines", "starter"),
    Carrier("UA", "United Air Lines", "scale"),
    Carrier("US", "US Airways", "scale"),
    Carrier("VX", "Virgin America", "bulk"),
    Carrier("WN", "Southwest Airlines", "bulk"),
    Carrier("YV", "Mesa Airlines", "starter"),
)
