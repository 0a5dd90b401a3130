"""Postgres: pool, scope of tenants, named queries, roles, binary arrays."""
