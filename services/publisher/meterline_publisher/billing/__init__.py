"""Values that several capabilities share: money, proration, canonical bodies."""
