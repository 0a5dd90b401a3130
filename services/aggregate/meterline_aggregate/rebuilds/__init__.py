"""Months that events were retracted from: computed again from the events that are left."""
