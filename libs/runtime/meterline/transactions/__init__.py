"""Transactions with an inbox and an outbox: what is handled once is published at least once."""
