"""Rating: prices and usage of a period become lines, calculations and rows of the ledger."""
