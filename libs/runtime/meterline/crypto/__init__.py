"""Sealing of single values: keys that are wrapped by keys, and ciphertexts that only fit their place."""
