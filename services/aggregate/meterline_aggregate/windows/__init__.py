"""Calendar windows, and decimals as text."""
