"""The API of the publisher: protobuf in, domain, protobuf out."""
