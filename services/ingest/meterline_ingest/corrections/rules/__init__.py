"""What a correction changes, which events one selects, and what follows from it."""
