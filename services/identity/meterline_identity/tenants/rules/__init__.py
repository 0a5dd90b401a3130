"""What a tenant is, and which values its fields may have."""
