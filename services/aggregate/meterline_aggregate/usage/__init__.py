"""Reads windows and contributions, and previews the effects of corrections on them."""
