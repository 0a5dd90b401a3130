"""The interface of billing providers, with one module or package for each provider."""
