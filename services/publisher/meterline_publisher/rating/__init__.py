"""Rates a period: computes lines, calculations and rows of the ledger from prices and usage."""
