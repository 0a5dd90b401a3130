"""The tables of API keys and signing keys."""
