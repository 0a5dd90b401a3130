"""What keys and capture configurations are, and who may grant what."""
