"""Event types: versioned definitions of what events carry, archived and restored."""
