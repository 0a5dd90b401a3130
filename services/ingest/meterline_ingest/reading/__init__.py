"""Reading: stored events by id, time or batch, and messages sent again."""
