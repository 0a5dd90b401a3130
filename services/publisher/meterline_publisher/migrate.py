"""Brings the publisher's schema up to date: `python -m meterline_publisher.migrate`."""

from __future__ import annotations

from meterline import migrate


def main() -> None:
    """Reads METERLINE_OWNER_DATABASE_URL; see `meterline.migrate`."""
    migrate.run("publisher")


if __name__ == "__main__":
    main()
