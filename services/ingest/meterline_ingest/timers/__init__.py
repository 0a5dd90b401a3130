"""Timers: events that are reported in the future unless they are cancelled."""
