"""TLS: encrypted calls with mutual authentication, where the settings name certificates."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import aio
from meterline.config import ServiceSettings
from meterline.rpc.client import Caller
from meterline.rpc.client import channel as service_channel
from meterline.service import tls
from pydantic import ValidationError

from tests.support.calls import client_of, server_of, started

pytestmark = pytest.mark.req("T4.1")


def settings(**more: object) -> ServiceSettings:
    given = {"database_url": "postgresql://", "authentication": "off"}
    return ServiceSettings.model_validate(given | more)


class Certificates:
    """A certificate authority in a folder, and the certificates that it signed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.authority = self._write("ca.pem", self._sign(self._name, self._key, authority=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Issues a certificate for this machine; returns the files of the certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificate = self._write(f"{name}.pem", self._sign(subject, key, authority=False))
        return certificate, self._write(f"{name}.key", pem)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def answers(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a call succeeds."""
    async with service_channel(address, Caller(None, credentials)) as channel:
        try:
            return bool(await client_of(channel).ask("hello", timeout=2.0) == "hello")
        except aio.AioRpcError:
            return False


async def test_calls_with_certificates_are_encrypted_and_mutually_authenticated(
    certificates: Certificates, tmp_path: Path
) -> None:
    (server_pem, server_key), (client_pem, client_key) = map(certificates.issue, ("server", "client"))
    configured = settings(
        tls_certificate_file=server_pem,
        tls_key_file=server_key,
        tls_client_ca_file=certificates.authority,
    )
    server = server_of(credentials=tls.server_credentials(configured), grace=0.1)
    async with started(server):
        known = settings(
            tls_certificate_file=client_pem,
            tls_key_file=client_key,
            tls_peer_ca_file=certificates.authority,
        )
        assert await answers(server.address, tls.channel_credentials(known))
        without_certificate = settings(tls_peer_ca_file=certificates.authority)
        others = tmp_path / "others"
        others.mkdir()
        deceived = settings(tls_peer_ca_file=Certificates(others).authority)
        results = await asyncio.gather(
            answers(server.address, tls.channel_credentials(without_certificate)),
            answers(server.address, tls.channel_credentials(deceived)),
            answers(server.address, None),
        )
        assert not any(results)


def test_tls_certificate_and_key_must_be_set_together() -> None:
    assert tls.server_credentials(settings()) is None
    assert tls.channel_credentials(settings()) is None
    with pytest.raises(ValidationError, match="together"):
        settings(tls_certificate_file="a")
    with pytest.raises(ValidationError, match="needs tls_certificate_file"):
        settings(tls_client_ca_file="a")
