"""What all Meterline services share, one folder a concern. See docs/architecture.md."""

__version__ = "0.1.0"
