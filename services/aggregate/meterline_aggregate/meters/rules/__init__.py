"""What a meter is, and what it may refer to."""
