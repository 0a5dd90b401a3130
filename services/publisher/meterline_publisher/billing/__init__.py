"""Values that several capabilities share: money, periods, canonical bodies."""
