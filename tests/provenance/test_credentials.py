"""Signed manifests: who signed, whether anything was changed, and what cannot sign is told before any work."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from certificates import Files, make
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from consistentid.errors import InputError
from consistentid.files.output import DIGITAL_SOURCE_TYPE, read_record
from consistentid.provenance.credentials import Signer, read_credentials
from consistentid.provenance.inspection import inspect_picture
from consistentid.provenance.marks import Provenance

PICTURE = Image.effect_noise((160, 128), 40).convert("RGB")
RECORD = {"prompt": "a woman in a red hat", "seed": 7}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("signer"), curve=ec.SECP256R1())


@pytest.fixture(scope="module")
def signer(files: Files) -> Signer:
    return Signer.load(files.certificate, files.key)


def test_all_three_marks_are_read_back(signer: Signer, files: Files, tmp_path: Path) -> None:
    file = tmp_path / "signed.png"
    file.write_bytes(Provenance(signer=signer).encode(PICTURE, RECORD))
    found = inspect_picture(file)
    assert found["record"] == RECORD == read_record(file)
    assert found["watermark"]["found"]
    assert found["credentials"] == {
        "state": "valid",
        "signer": "Ada's studio",
        "issuer": "Test",
        "made_with": "consistentid",
        "source_types": ["trainedAlgorithmicMedia"],
        "problems": ["signingCredential.untrusted"],
    }
    trusted = read_credentials(file, files.authority)
    assert (trusted["state"], trusted["problems"]) == ("trusted", [])


def test_a_change_breaks_the_signature_and_nothing_else(signer: Signer, tmp_path: Path) -> None:
    png = Provenance(signer=signer).encode(PICTURE, RECORD)
    start = png.index(b"tEXtSource\0AI-generated")
    chunk = png[start : start + 23].replace(b"AI-generated", b"by hand, Ada")
    file = tmp_path / "changed.png"
    file.write_bytes(png[:start] + chunk + crc32(chunk).to_bytes(4, "big") + png[start + 27 :])
    assert inspect_picture(file)["watermark"]["found"]
    credentials = read_credentials(file)
    assert credentials["state"] == "invalid"
    assert "assertion.dataHash.mismatch" in credentials["problems"]


def test_pictures_without_a_manifest(tmp_path: Path) -> None:
    for name in ("plain.png", "plain.jpg", "plain.webp", "plain.bmp"):
        PICTURE.save(tmp_path / name)
        assert read_credentials(tmp_path / name) == {"state": "none"}


def test_a_composite_says_so_and_keeps_what_was_given(signer: Signer, tmp_path: Path) -> None:
    made = np.array(PICTURE)
    made[30:90, 40:120] = 255 - made[30:90, 40:120]
    file = tmp_path / "composite.png"
    file.write_bytes(Provenance(signer=signer).encode(Image.fromarray(made), RECORD, kept=PICTURE))
    assert read_credentials(file)["source_types"] == ["compositeWithTrainedAlgorithmicMedia"]
    assert DIGITAL_SOURCE_TYPE.encode() not in file.read_bytes()
    changed = (np.asarray(Image.open(file)) != np.asarray(PICTURE)).any(axis=-1)
    assert changed[30:90, 40:120].any()
    changed[30:90, 40:120] = False
    assert not changed.any(), "the rest stays as it is, to the last bit"


@pytest.mark.parametrize("curve", [None, ec.SECP384R1()], ids=["RSA", "P-384"])
def test_keys_of_other_kinds(tmp_path: Path, curve: ec.EllipticCurve | None) -> None:
    files = make(tmp_path, curve=curve)
    (tmp_path / "a.png").write_bytes(
        Provenance(signer=Signer.load(files.certificate, files.key)).encode(PICTURE, RECORD)
    )
    assert read_credentials(tmp_path / "a.png")["state"] == "valid"


def test_what_cannot_sign_is_told_at_once(tmp_path: Path, files: Files) -> None:
    curve = ec.SECP256R1()
    expired = make(tmp_path / "expired", (-30, -2), curve=curve)
    early = make(tmp_path / "early", (2, 30), curve=curve)
    locked = make(tmp_path / "locked", curve=curve, passphrase=b"secret")
    server = make(tmp_path / "server", curve=curve, usage=ExtendedKeyUsageOID.SERVER_AUTH)
    small = make(tmp_path / "small", curve=ec.SECP256K1())
    (tmp_path / "junk.pem").write_text("junk")
    for certificate, key, message in (
        (expired.certificate, expired.key, r"chain\.pem: expired on \d{4}-\d\d-\d\d; get a new certificate"),
        (early.certificate, early.key, r"chain\.pem: is valid only from"),
        (locked.certificate, locked.key, r"key\.pem: is locked with a passphrase"),
        (server.certificate, server.key, r"chain\.pem: cannot sign pictures \(.+\); C2PA wants"),
        (small.certificate, small.key, r"key\.pem: is of a kind that C2PA does not sign with"),
        (files.certificate, locked.authority, r"authority\.pem: holds no private key"),
        (files.certificate, expired.key, r"key\.pem: is not the key of .*chain\.pem"),
        (tmp_path / "junk.pem", files.key, r"junk\.pem: holds no certificates"),
        (files.certificate, tmp_path / "absent.pem", r"absent\.pem: no such file"),
        (tmp_path, files.key, r"is a folder; name the certificate inside it"),
    ):
        with pytest.raises(InputError, match=message):
            Signer.load(certificate, key)
    with pytest.raises(InputError, match=r"junk\.pem: holds no certificates"):
        read_credentials(files.certificate, tmp_path / "junk.pem")


def test_a_finished_picture_is_not_lost_to_a_certificate_that_expired_meanwhile(signer: Signer, tmp_path: Path) -> None:
    expired = make(tmp_path, (-30, -2), curve=ec.SECP256R1())
    late = replace(signer, certificates=expired.certificate.read_bytes(), key=expired.key.read_bytes())
    with pytest.warns(UserWarning, match="could not be signed .+ saved without a signature"):
        png = Provenance(signer=late).encode(PICTURE, RECORD)
    assert png == Provenance().encode(PICTURE, RECORD)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, files: Files, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(InputError, match=r"pip install 'consistentid\[provenance\]'"):
        Signer.load(files.certificate, files.key)
    stream = io.BytesIO(Provenance().encode(PICTURE, RECORD))
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    assert read_credentials(tmp_path / "a.png")["state"] == "unknown"


def test_bytes_are_the_same_each_time_and_measured_pictures_unmarked() -> None:
    assert Provenance().encode(PICTURE, RECORD) == Provenance().encode(PICTURE, RECORD)
    unmarked = Image.open(io.BytesIO(Provenance(watermark=False).encode(PICTURE, RECORD)))
    assert unmarked.tobytes() == PICTURE.tobytes()
