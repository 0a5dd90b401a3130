"""The ledger: every difference that is sent to the billing provider, once in effect."""
