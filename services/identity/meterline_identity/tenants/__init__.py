"""Tenants: onboarded, changed, and published to the other services."""
