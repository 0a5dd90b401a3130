"""Tenants by name, from memory, the replica, or identity."""
