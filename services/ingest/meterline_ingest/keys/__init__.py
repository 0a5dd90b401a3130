"""Data keys of tenants: created, rotated, destroyed; sealed values follow to the newest key."""
