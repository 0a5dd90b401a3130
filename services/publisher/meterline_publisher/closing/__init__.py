"""Rates periods shortly before they end, and again when usage arrives late."""
