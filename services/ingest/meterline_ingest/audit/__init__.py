"""Audit log: who changed what, and why; appended with each change, and listed."""
