"""The tables of events, batches, details and messages, by month."""
