"""The only place with SQL: a module and a file of queries for each table."""
