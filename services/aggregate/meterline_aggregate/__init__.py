"""See docs/services/aggregate.md."""
