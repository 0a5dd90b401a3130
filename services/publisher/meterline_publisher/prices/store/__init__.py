"""Stores the catalogue."""
