"""The broker's address as a URL, and the login in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote, urlsplit

_DEFAULT_PORT: Final = 4222


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the broker is and who connects. `server` is the URL without the login; logins are empty if not
    given."""

    server: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads `nats://user:password@host:port`, or `tls://…`, with percent-encoding in the login. Port 4222
        is the default. Raises ValueError, which never quotes the URL, since it holds a password."""
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORT
        except ValueError:
            # Its text, or that of its cause, would quote a part of the password.
            raise ValueError("nats_url is not a URL; encode special characters of the password") from None
        if parts.scheme not in ("nats", "tls") or not parts.hostname:
            raise ValueError("nats_url must be nats://user:password@host:port or tls://…")
        if bool(parts.username) != bool(parts.password):
            raise ValueError("nats_url must have both user and password, or neither")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            server=f"{parts.scheme}://{host}:{port}",
            host=parts.hostname,
            port=port,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )
