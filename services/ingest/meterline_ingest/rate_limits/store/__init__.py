"""The tables of limits and of the buckets that replicas lease from."""
