"""Rates usage, sends it to the billing provider and explains it. See docs/services/publisher.md."""

from typing import Final

__version__: Final = "0.1.0"
