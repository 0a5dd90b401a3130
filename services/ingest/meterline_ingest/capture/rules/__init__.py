"""Which events are good, whose turn it is, and how much of rejected ones is kept."""
