"""Invoices and their lines, as they are stored, read and published to other services."""
