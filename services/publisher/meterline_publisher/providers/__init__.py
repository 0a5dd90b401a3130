"""The billing provider: a port, and one module or package for each provider."""
