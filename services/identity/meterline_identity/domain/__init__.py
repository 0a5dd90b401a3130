"""What a tenant is and what may become of it. No I/O, no protobuf, no clock."""
