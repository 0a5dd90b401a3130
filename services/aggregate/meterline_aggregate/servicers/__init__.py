"""The API of aggregate: protobuf in, domain, protobuf out."""
