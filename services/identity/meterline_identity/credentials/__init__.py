"""API keys, signing keys and capture tokens: issued, verified, revoked."""
