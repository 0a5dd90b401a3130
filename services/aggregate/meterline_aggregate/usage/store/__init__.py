"""Reads windows, contributions and members."""
