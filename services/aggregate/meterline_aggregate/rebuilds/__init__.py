"""Rebuilds months that events were retracted from, from the remaining events."""
