"""Decodes accepted events, folds them into windows, and stores those."""
