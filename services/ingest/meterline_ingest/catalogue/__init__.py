"""Catalogue: entries by key that enrich events as they are captured."""
