"""Meters: created, listed, referred to, deleted."""
