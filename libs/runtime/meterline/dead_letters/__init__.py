"""Messages that could not be applied: kept with the reason, looked at, and handed to their handler again."""
