"""How fast the data path is, measured against its references: `make bench`, or `python -m tests.bench`."""
