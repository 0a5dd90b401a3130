"""Slots: parts of what a window keeps of its events, each with its fold, its merge and perhaps an inverse."""
