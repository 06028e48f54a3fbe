"""Certificates for tests: an authority that nobody knows, and signers for whom it vouches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Files(NamedTuple):
    """PEM files: the signer's certificate with that of the authority, the signer's key, the authority's certificate."""

    certificate: Path
    key: Path
    authority: Path


def make(
    folder: Path,
    days: tuple[float, float] = (-1, 30),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    curve: ec.EllipticCurve | None = None,
    passphrase: bytes | None = None,
) -> Files:
    """A signer whose certificate is in force from and until so many days from now; with an RSA key without a curve."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key: Any = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
    authority = _certificate("Test authority", authority_key, "Test authority", authority_key, (-400, 400), None)
    signer = _certificate("Ada's studio", key, "Test authority", authority_key, days, usage)
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    files = Files(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
    files.certificate.write_bytes(signer.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    return files


def _certificate(
    name: str, key: Any, issuer: str, issuer_key: Any, days: tuple[float, float], usage: x509.ObjectIdentifier | None
) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    now, own = datetime.now(UTC), usage is None
    marks = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=own, crl_sign=own, **marks), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer_key, SHA256())
