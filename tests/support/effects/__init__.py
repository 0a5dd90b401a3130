"""A table of the runtime's tests, as a package of migrations."""
