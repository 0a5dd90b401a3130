"""Stores invoices and their lines, reads them, and publishes their changes."""
