"""The replica of identity's tenants, with the history of their plans."""
