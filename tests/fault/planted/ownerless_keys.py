"""Identity that trusts a token's claims of owner and permissions, whichever key signed it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meterline.auth import tokens
from meterline.auth.principals import Permission
from meterline_identity.main import main

if __name__ == "__main__":
    judged = tokens._principal

    def _believed(claims: dict[str, Any], known: Any) -> Any:
        everything = frozenset(Permission)
        return judged(claims, replace(known, owner=claims["sub"], permissions=everything))

    tokens._principal = _believed
    main()
