"""See docs/services/identity.md."""
