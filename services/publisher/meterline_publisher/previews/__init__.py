"""Previews invoices as they would be now, or after assumed changes of usage."""
