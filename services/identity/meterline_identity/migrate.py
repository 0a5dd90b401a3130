"""Brings identity's schema up to date: `python -m meterline_identity.migrate`."""

from __future__ import annotations

from meterline import migrate


def main() -> None:
    """Reads METERLINE_OWNER_DATABASE_URL; see `meterline.migrate`."""
    migrate.run("identity")


if __name__ == "__main__":
    main()
