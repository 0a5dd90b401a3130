"""Stripe as a billing provider."""
