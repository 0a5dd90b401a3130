"""Windows and contributions: queried, and previewed as corrections would change them."""
