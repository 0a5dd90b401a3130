"""What a meter is and how events become windows. Pure: no I/O, no protobuf, no clock of its own."""
