"""Billing gaps: usage that no invoice line bills, with the reason."""
