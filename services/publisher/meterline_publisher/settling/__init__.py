"""Compares the provider's sums and invoices with ours, and records which invoices are final."""
