"""Slots: the parts of a window's state, each with a fold, a merge and possibly an inverse."""
