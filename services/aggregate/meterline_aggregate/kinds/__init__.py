"""Meter kinds: each is a tuple of slots, which fold, merge and subtract, and the value computed from them."""
