"""Malformed requests by the hundred: refused in words, never 5xx, the service goes on, and nothing is left on disk."""

from __future__ import annotations

import base64
import io
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image
from served import ADA

from consistentid.pipeline.request import plain_arguments

CHEAP = {"prompt": "a woman", "num_inference_steps": 1, "seed": 1}
ODD: list[Any] = [
    None, True, -1, 0, 1, 0.5, 2**63, -(2**70), 1e308, float("nan"), float("inf"), "", "x", "1", "\0", "\u202e" * 50,
    "../../etc/passwd", "data:image/png;base64,AAAA", [], {}, [[]], [None], [1, "x"], [0, 0, 1, 1], [[0, 0, 1, 1]],
    {"eyes": "green eyes"}, {"eyes": None}, {"": ""}, ["", ""], [{}], "x" * 1999,
]  # fmt: skip


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder for temporary files, which must stay empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir())


def check(answer: Response, what: object) -> None:
    assert answer.status_code < 500, (answer.status_code, answer.text[:300], what)
    if answer.status_code >= 400:
        told = answer.json()["error"]
        assert told["message"], what
        assert told["code"] != "unexpected", what
    else:
        assert answer.status_code in (200, 202, 204), what


def still_answers(client: TestClient, ada: str) -> None:
    answer = client.post("/v1/portraits", json={"identity": ada, "request": CHEAP})
    assert answer.status_code == 200, answer.text
    assert client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def ada(client: TestClient) -> str:
    return str(client.post("/v1/identities", files={"photo": ADA.read_bytes()}).json()["identity"])


@pytest.mark.slow
def test_every_field_of_the_document_with_every_odd_value(client: TestClient, ada: str, watched: Path) -> None:
    document = client.get("/openapi.json").json()
    schema = document["paths"]["/v1/portraits"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = schema["properties"]["request"]["properties"]
    assert set(fields) == set(plain_arguments())
    for name in fields:
        for value in ODD:
            body = json.dumps({"identity": ada, "request": {**CHEAP, name: value}})
            check(client.post("/v1/portraits", content=body), (name, value))
    for name in schema["properties"]:
        for value in ODD:
            body = json.dumps({"identity": ada, "request": CHEAP, name: value})
            check(client.post("/v1/portraits", content=body), (name, value))
    for name in ("prompt", "n", "size", "seed", "identity", "model", "response_format", "stream", "unknown"):
        for value in ODD:
            body = json.dumps({"prompt": "a woman", "num_inference_steps": 1, name: value})
            check(client.post("/v1/images/generations", content=body), (name, value))
    still_answers(client, ada)


def spoiled(data: bytes, rng: random.Random) -> bytes:
    """A file with something wrong in it."""
    found = bytearray(data)
    match rng.randrange(6):
        case 0:
            del found[rng.randrange(len(found)) :]
        case 1:
            for _ in range(rng.randrange(1, 20)):
                found[rng.randrange(len(found))] = rng.randrange(256)
        case 2:
            place = rng.randrange(len(found))
            found[place:place] = rng.randbytes(rng.randrange(1, 200))
        case 3:
            del found[(place := rng.randrange(len(found))) : place + rng.randrange(1, 400)]
        case 4:
            found[: rng.randrange(1, 60)] = rng.randbytes(8)
        case 5:
            found += data
    return bytes(found)


@pytest.mark.slow
def test_spoiled_files_and_forms(client: TestClient, ada: str, watched: Path) -> None:
    rng = random.Random(0)
    files = [ADA.read_bytes()]
    with Image.open(ADA) as image:
        for kind in ("JPEG", "WEBP", "TIFF", "GIF", "BMP"):
            stream = io.BytesIO()
            image.convert("RGB").save(stream, kind)
            files.append(stream.getvalue())
    identity = base64.b64decode(ada)
    request = json.dumps(CHEAP)
    for number in range(200):
        data = spoiled(rng.choice(files), rng)
        check(client.post("/v1/identities", files={"photo": data}), ("photo", number))
        spoiled_identity = spoiled(identity, rng)
        if number % 4 == 0:
            sent = client.post("/v1/portraits", data={"request": request}, files={"identity": spoiled_identity})
            check(sent, ("identity", number))
            image = base64.b64encode(data).decode()
            body = {"identity": ada, "request": {**CHEAP, rng.choice(["image", "control"]): image}}
            check(client.post("/v1/portraits", json=body), ("image", number))
    whole = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n' + files[0] + b"\r\n--x--\r\n"
    head = {"content-type": "multipart/form-data; boundary=x"}
    for number in range(100):
        cut = spoiled(whole, rng) if number % 2 else spoiled(whole[:120], rng)
        check(client.post("/v1/identities", content=cut, headers=head), ("form", number))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "X"):
        for path in ("/", "/v1", "/v1/jobs/" + "x" * 5000, "/v1/jobs/%00", "/v1/identities/%ff", "/v1/jobs/a/events"):
            answer = client.request(method, path)
            assert answer.status_code < 500, (method, path, answer.status_code)
    still_answers(client, ada)
