"""Timers: durations from a start to a stop, or to a missing heartbeat, that are reported as events."""
