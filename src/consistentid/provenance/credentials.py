"""Content Credentials: a signed manifest (C2PA) inside the picture, which says who vouches that a model made it.

The work is done by `c2pa-python` (extra ``provenance``). Nothing is sent or fetched: no time-stamping authority is
asked, no manifest or revocation list is looked up.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from consistentid.errors import InputError, first_line
from consistentid.files.output import encode_png, source_type
from consistentid.files.reading import check_file, read_bytes

MAX_BYTES = 1 << 20
"""Size of a file of certificates or a key above which it is refused."""

_MISSING = "Content Credentials need {name}, which is not installed; pip install 'consistentid[provenance]'"
_WRITING = {"builder": {"thumbnail": {"enabled": False}}}
_READING = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_ALGORITHMS = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Signer:
    """Who signs pictures.

    Attributes:
        certificates: PEM, the signer's certificate first, then those that vouch for it.
        key: PEM, its private key.
        algorithm: of the signature, by C2PA's name, such as "es256".
        name: of the signer, for messages.
    """

    certificates: bytes
    key: bytes
    algorithm: str
    name: str

    @classmethod
    def load(cls, certificate: str | PathLike[str], key: str | PathLike[str]) -> Signer:
        """A signer whose certificate is in force and fits its key, which a trial signature has shown.

        Raises:
            InputError: the extra ``provenance`` is not installed; a file cannot be read or is not what it should be;
                the certificate is expired, not yet valid, of another key, or none that C2PA allows.
        """
        try:
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
        except ImportError as error:
            raise InputError(_MISSING.format(name=error.name)) from None
        chain = read_bytes(certificate, MAX_BYTES, what="certificate")
        secret = read_bytes(key, MAX_BYTES, what="private key")
        try:
            own = x509.load_pem_x509_certificates(chain)[0]
        except (ValueError, IndexError):
            raise InputError(
                f"{certificate}: holds no certificates in PEM form; name a file with the signer's first"
            ) from None
        try:
            private = load_pem_private_key(secret, None)
        except TypeError:
            raise InputError(f"{key}: is locked with a passphrase; name a private key without one") from None
        except Exception:  # of a broken key it raises its own, ValueError or what OpenSSL says
            raise InputError(f"{key}: holds no private key in PEM form that can be read; check the file") from None
        now = datetime.now(UTC)
        if now > own.not_valid_after_utc:
            raise InputError(f"{certificate}: expired on {own.not_valid_after_utc:%Y-%m-%d}; get a new certificate")
        if now < own.not_valid_before_utc:
            raise InputError(f"{certificate}: is valid only from {own.not_valid_before_utc:%Y-%m-%d}; check the clock")
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if own.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
            raise InputError(f"{key}: is not the key of {certificate}; name the two that belong together")
        signer = cls(chain, secret, _algorithm(private, key), own.subject.rfc4514_string())
        try:
            signer.sign(encode_png(Image.new("RGB", (32, 32)), {}), composite=False)
        except InputError as error:
            raise InputError(
                f"{certificate}: cannot sign pictures ({error}); C2PA wants a certificate for digital signatures, with"
                " an extended key usage such as emailProtection, and not one that signs itself"
            ) from None
        return signer

    def sign(self, png: bytes, *, composite: bool) -> bytes:
        """The PNG with a manifest that says that a model made it, or, `composite`, parts of it.

        Raises:
            InputError: it cannot be signed, as when the certificate has expired.
        """
        try:
            import c2pa
        except ImportError as error:
            raise InputError(_MISSING.format(name=error.name)) from None
        manifest = {
            "claim_generator_info": [{"name": "consistentid", "version": version("consistentid")}],
            "assertions": [
                {
                    "label": "c2pa.actions.v2",
                    "data": {
                        "actions": [{"action": "c2pa.created", "digitalSourceType": source_type(composite=composite)}]
                    },
                }
            ],
        }
        signed = io.BytesIO()
        try:
            with (
                c2pa.Signer.from_info(c2pa.C2paSignerInfo(self.algorithm, self.certificates, self.key, None)) as signer,
                c2pa.Context.from_dict(_WRITING) as context,
                c2pa.Builder(manifest, context) as builder,
            ):
                builder.sign(signer, "image/png", io.BytesIO(png), signed)
        except c2pa.C2paError as error:
            raise InputError(first_line(error)) from None
        return signed.getvalue()


def _algorithm(key: Any, file: str | PathLike[str]) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _ALGORITHMS:
        return _ALGORITHMS[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise InputError(
        f"{file}: is of a kind that C2PA does not sign with; use a key on the curve P-256, P-384 or P-521, an Ed25519"
        " or an RSA key"
    )


def read_credentials(picture: str | PathLike[str], trusted: str | PathLike[str] | None = None) -> dict[str, Any]:
    """What a picture's manifest says, and whether that is so.

    Args:
        picture: a file that holds a picture.
        trusted: PEM file of certificates; whom they vouch for is trusted. Nobody is by default.

    Returns:
        "state": "none", "invalid" (the picture or the manifest was changed, or the certificate was not in force),
        "valid" (nothing was changed since somebody signed, who may be anybody), "trusted" (somebody for whom `trusted`
        vouches), or "unknown" (the extra ``provenance`` is not installed). With a manifest also "signer", "issuer",
        "made_with", "source_types" (IPTC's terms) and "problems", C2PA's codes of what is wrong.

    Raises:
        InputError: `trusted` cannot be read, or holds no certificates.
    """
    anchors = read_bytes(trusted, MAX_BYTES, what="file of certificates") if trusted is not None else b""
    if anchors and b"-----BEGIN CERTIFICATE-----" not in anchors:
        raise InputError(f"{trusted}: holds no certificates in PEM form; name a file with those that you trust")
    try:
        import c2pa
    except ImportError as error:
        return {"state": "unknown", "problems": [_MISSING.format(name=error.name)]}
    settings: dict[str, Any] = dict(_READING)
    if anchors:
        settings["trust"] = {"trust_anchors": anchors.decode("ascii", "replace")}
    try:
        with c2pa.Context.from_dict(settings) as context:
            form = _media_type(picture)
            with Path(picture).open("rb") as stream:
                known = form in c2pa.Reader.get_supported_mime_types()  # what is of another kind can hold none
                reader = c2pa.Reader.try_create(form, stream, None, context) if known else None
                if reader is None:
                    return {"state": "none"}
                with reader:
                    manifest = reader.get_active_manifest() or {}
                    state = reader.get_validation_state()
                    failures = (reader.get_validation_results() or {}).get("activeManifest", {}).get("failure", [])
    except c2pa.C2paError as error:
        return {"state": "invalid", "problems": [first_line(error)]}
    signature = manifest.get("signature_info") or {}
    return {
        "state": {"Trusted": "trusted", "Valid": "valid"}.get(str(state), "invalid"),
        "signer": signature.get("common_name"),
        "issuer": signature.get("issuer"),
        "made_with": ", ".join(str(made.get("name")) for made in manifest.get("claim_generator_info") or []),
        "source_types": sorted(set(_source_types(manifest))),
        "problems": sorted({str(failure.get("code")) for failure in failures}),
    }


def _media_type(picture: str | PathLike[str]) -> str | None:
    try:
        with Image.open(check_file(picture, what="picture")) as image:
            return Image.MIME.get(image.format or "")
    except Exception as error:  # a broken file makes Pillow's plugins raise nearly anything
        raise InputError(f"{picture}: is not a picture that can be read ({first_line(error)})") from None


def _source_types(manifest: dict[str, Any]) -> list[str]:
    found = []
    for assertion in manifest.get("assertions") or []:
        data = assertion.get("data") if isinstance(assertion, dict) else None
        actions = data.get("actions") if isinstance(data, dict) else None
        for action in actions if isinstance(actions, list) else []:
            if isinstance(action, dict) and "digitalSourceType" in action:
                found.append(str(action["digitalSourceType"]).rpartition("/")[2])
    return found
