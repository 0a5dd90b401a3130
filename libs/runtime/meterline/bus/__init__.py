"""NATS JetStream: which facts there are, how to connect, publish and consume."""
