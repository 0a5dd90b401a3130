"""The publisher's tables: the only place with SQL. Every function works in the caller's transaction."""
