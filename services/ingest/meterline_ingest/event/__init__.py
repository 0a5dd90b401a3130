"""Events: the columns, names, bounds, ids and outcomes that all other packages use. Pure."""
