"""What tenants and their credentials are, and what may become of them. No I/O, no protobuf, no clock."""
