"""Publishing: a period is rated, and what differs from the ledger is sent to the billing provider."""
