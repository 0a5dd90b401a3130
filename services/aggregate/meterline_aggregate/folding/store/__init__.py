"""Stores windows, members, contributions, groups and applied messages."""
