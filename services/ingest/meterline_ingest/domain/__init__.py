"""What an event is and which ones are good. Pure: no I/O, no protobuf, no clock of its own."""
