"""The API of ingest: protobuf in, domain, protobuf out. A module for each service."""
