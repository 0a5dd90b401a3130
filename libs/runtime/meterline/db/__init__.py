"""Postgres: pool, unit of work, named queries, migrations, binary arrays."""
