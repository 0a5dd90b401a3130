"""Folds accepted events to one change for each window: see `fold`."""

from meterline_aggregate.domain.fold.choice import fold

__all__ = ["fold"]
