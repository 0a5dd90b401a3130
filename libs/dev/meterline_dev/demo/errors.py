"""Why a demo cannot go on."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message is for the person who runs it."""
