"""Consuming messages: in batches, each a transaction; what cannot be applied is split, repeated or buried."""
