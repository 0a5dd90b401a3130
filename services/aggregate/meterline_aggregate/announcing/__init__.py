"""Publishes month windows that changed."""
