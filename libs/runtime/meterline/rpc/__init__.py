"""gRPC: server, instrumentation, rich errors, channels."""
