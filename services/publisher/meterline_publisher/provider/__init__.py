"""The billing provider: a port, and one module for each provider behind it."""
