"""Settling: the provider's sums and invoices are compared with ours, and final invoices are kept as such."""
