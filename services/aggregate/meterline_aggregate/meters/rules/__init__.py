"""The definition of a meter, and the rules for what it may refer to."""
