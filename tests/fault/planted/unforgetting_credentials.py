"""Ingest that never asks identity a second time: what is revoked stays valid."""

from __future__ import annotations

from typing import Any, Final

from meterline.auth.credential_cache import CredentialCache
from meterline_ingest.main import main

_YEAR_SECONDS: Final = 365 * 86_400.0
_init = CredentialCache.__init__


def _never_old(self: CredentialCache[Any, Any], what: str, ask: Any, **_: float) -> None:
    _init(self, what, ask, fresh=_YEAR_SECONDS, stale=_YEAR_SECONDS)


if __name__ == "__main__":
    CredentialCache.__init__ = _never_old  # type: ignore[method-assign, assignment]
    main()
