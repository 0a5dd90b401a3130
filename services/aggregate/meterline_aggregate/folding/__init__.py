"""Accepted events: decoded, folded into windows, and stored."""
