"""Caches, and the parts that they consist of: answers with a greatest age, one question for all who wait."""
