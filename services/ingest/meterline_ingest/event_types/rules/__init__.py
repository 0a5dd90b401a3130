"""Rules for event types and for the fields of their events."""
