"""Billing gaps: usage that no invoice line bills, and why."""
