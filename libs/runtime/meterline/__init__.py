"""What all Meterline services share, one package a concern. See docs/map.md."""

__version__ = "0.1.0"
