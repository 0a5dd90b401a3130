"""The addresses of a running mesh's services, kept in a file of its directory for later commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FILE: Final = "mesh.json"
# In the directory of a mesh: a token of its operator.
TOKEN_FILE: Final = "operator.token"


@dataclass(frozen=True, slots=True)
class Placement:
    """
    addresses: host:port of each service's gRPC by its name
    stripe: address of Stripe's API or its double
    """

    directory: Path
    addresses: Mapping[str, str]
    stripe: str

    def write(self) -> None:
        body = {"addresses": dict(self.addresses), "stripe": self.stripe}
        (self.directory / _FILE).write_text(json.dumps(body, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Placement:
        """Raises FileNotFoundError when no mesh has been started there."""
        try:
            body = json.loads((directory / _FILE).read_text())
        except FileNotFoundError as error:
            start = f'make run ARGS="--no-demo --data {directory}"'
            raise FileNotFoundError(f"no mesh in {directory}; this starts one: {start}") from error
        return cls(directory, body["addresses"], body["stripe"])

    def token(self) -> str:
        """The operator's token, written when the mesh starts or the key is replaced."""
        return (self.directory / TOKEN_FILE).read_text()
