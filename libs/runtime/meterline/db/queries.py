"""SQL lives in `.sql` files; each query has a name there and is used by that name.

A query starts with `-- name: <name>`. `tests/architecture` checks that every query names tenant_id, or says
why not in a line `-- tenant: <reason>`.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


class Queries:
    """The queries of one file, as attributes: `queries.insert_batch`."""

    def __init__(self, package: str, file: str = "queries.sql") -> None:
        text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
        _, *parts = _NAME.split(text)
        names, bodies = parts[::2], parts[1::2]
        if len(set(names)) != len(names):
            raise ValueError(f"{package}/{file}: a name occurs twice")
        self._by_name = {name: body.strip() for name, body in zip(names, bodies, strict=True)}
        self._file = f"{package}/{file}"

    def __getattr__(self, name: str) -> LiteralString:
        try:
            # The text comes from a file of the package, so it is as trusted as the code.
            return cast("LiteralString", self._by_name[name])
        except KeyError:
            raise AttributeError(f"{self._file} has no query {name!r}") from None

    def items(self) -> dict[str, str]:
        """All queries by name."""
        return dict(self._by_name)
