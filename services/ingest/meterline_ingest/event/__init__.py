"""An event: the columns, names, bounds, ids and outcomes that all packages above speak of. Pure."""
