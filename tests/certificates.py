"""Certificates for tests, made when they are needed: an authority that clients are told to trust, and what it signs."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

forced: dict[str, str] = {}
"""Settings of each server whose test says nothing of TLS: a certificate with ``pytest --tls``, else none."""

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for localhost and 127.0.0.1."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("fastws test authority")
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            _builder(self._name, self._name, self._key.public_key(), now - _DAY, now + _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            # Python from 3.13 on trusts no authority without these, and nothing that does not name its own.
            .add_extension(_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def write(self, path: Path) -> Path:
        """Write the certificate that clients trust to `path`."""
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(
        self,
        certfile: Path,
        keyfile: Path | None = None,
        *,
        name: str = "localhost",
        others: Sequence[str] = (),
        days: float = 1,
        password: bytes | None = None,
    ) -> None:
        """Write a new certificate and its key, both to `certfile` where `keyfile` is None."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = datetime.datetime.now(datetime.UTC) + days * _DAY
        names = [x509.DNSName(each) for each in (name, *others)]
        certificate = (
            _builder(_name(name), self._name, key.public_key(), until - 3 * _DAY, until)
            .add_extension(
                x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        encryption = (
            serialization.BestAvailableEncryption(password)
            if password is not None
            else serialization.NoEncryption()
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        if keyfile is None:
            certfile.write_bytes(chain + pem)
        else:
            certfile.write_bytes(chain)
            keyfile.write_bytes(pem)

    def client_context(self) -> ssl.SSLContext:
        """What a client uses that trusts this authority and nobody else."""
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        return ssl.create_default_context(cadata=pem)


class Files:
    """An authority, its certificate in `authority_file`, and one it has issued, with its key, in `certfile`."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="fastws-certificates-")
        directory = Path(self._directory.name)
        self.authority = Authority()
        self.authority_file = self.authority.write(directory / "authority.pem")
        self.certfile = directory / "server.pem"
        self.authority.issue(self.certfile)


@functools.cache
def files() -> Files:
    """Those of this run of the tests."""
    return Files()


def _usage() -> x509.KeyUsage:
    """Of what signs certificates."""
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )
