"""Meter kinds: each is a tuple of slots, which fold, merge and take away, and a value read from them."""
