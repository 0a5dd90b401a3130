"""Rates a period and sends the differences from the ledger to the billing provider."""
