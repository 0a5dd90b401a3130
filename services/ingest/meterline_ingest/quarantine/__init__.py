"""Quarantine: rejected events are listed, shown, replayed and discarded."""
