"""Month windows that changed: published."""
