"""Folds accepted events into changes of windows, members and contributions."""
