"""Money, proration and canonical JSON, shared by several capabilities."""
