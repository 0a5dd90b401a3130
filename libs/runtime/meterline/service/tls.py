"""TLS of the server and of channels to other services, if the settings name its files."""

from __future__ import annotations

from pathlib import Path

import grpc

from meterline.config import ServiceSettings


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """None: plain text. With a CA for clients, only callers with a certificate of it are served."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    pair = settings.tls_key_file.read_bytes(), settings.tls_certificate_file.read_bytes()
    authority = _read(settings.tls_client_ca_file)
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def channel_credentials(settings: ServiceSettings) -> grpc.ChannelCredentials | None:
    """None: plain text. The service presents its own certificate to peers that ask for one."""
    if settings.tls_peer_ca_file is None:
        return None
    return grpc.ssl_channel_credentials(
        settings.tls_peer_ca_file.read_bytes(),
        _read(settings.tls_key_file),
        _read(settings.tls_certificate_file),
    )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
