"""Benchmarks of the data path against references: `make bench`, or `python -m tests.bench`."""
