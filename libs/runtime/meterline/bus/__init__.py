"""NATS JetStream: which facts there are, who may publish and read them, and the connection."""
