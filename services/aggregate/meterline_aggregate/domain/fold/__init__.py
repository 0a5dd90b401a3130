"""Folds accepted events to one change for each window: see `choice.fold`."""
