"""Calendar windows."""
