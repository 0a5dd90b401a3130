"""The ledger of differences to send to the billing provider; each counts there exactly once."""
