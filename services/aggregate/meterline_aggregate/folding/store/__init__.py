"""The tables of windows, members, contributions, groups and applied messages."""
