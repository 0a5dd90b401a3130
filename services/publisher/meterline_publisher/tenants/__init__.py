"""Tenants as identity publishes them, with the plans that they had."""
