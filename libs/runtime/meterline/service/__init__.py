"""A service: its parts are made, started and stopped in one order."""
