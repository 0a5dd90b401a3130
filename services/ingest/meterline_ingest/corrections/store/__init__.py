"""The tables of corrections and imports, and what an event says after its corrections."""
