from __future__ import annotations

import base64
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image
from served import ADA, LOCAL, until_ready

from consistentid.adapter.identity import Identity
from consistentid.cli import main
from consistentid.files.output import read_record
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import plain_arguments
from consistentid.serving.api import create_app
from consistentid.serving.limits import Limits
from consistentid.serving.service import Service

SMALL = {"prompt": "a woman in a red hat", "num_inference_steps": 2, "seed": 3, "num_images_per_prompt": 2}


def photo(path: Path = ADA) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def refused(answer: Response, status: int, *words: str) -> str:
    assert answer.status_code == status, answer.text
    message = str(answer.json()["error"]["message"])
    for word in words:
        assert word in message
    return message


@pytest.fixture(scope="session")
def ada(client: TestClient) -> str:
    answer = client.post("/v1/identities", files={"photo": ADA.read_bytes()})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["identity"])


def test_python_command_line_and_service_give_the_same_bytes(
    client: TestClient, studio: ConsistentIDPipeline, tmp_path: Path
) -> None:
    made = studio(studio.identify(ADA), **{**SMALL, "parts": {"eyes": "green eyes"}})
    python = [made.to_png(number) for number in range(2)]
    line = ["generate", ADA, "--prompt", SMALL["prompt"], "--steps", 2, "--seed", 3, "--num", 2, "--device", "cpu"]
    line += ["--part", "eyes=green eyes", "--out", tmp_path, "--json"]
    result = CliRunner().invoke(main, [str(x) for x in line])
    assert result.exit_code == 0, result.output
    command = [Path(picture["file"]).read_bytes() for picture in json.loads(result.stdout)["pictures"]]
    body = {"photos": [photo()], "request": {**SMALL, "parts": {"eyes": "green eyes"}}}
    by_json = client.post("/v1/portraits", json=body)
    assert by_json.status_code == 200, by_json.text
    by_form = client.post(
        "/v1/portraits", data={"request": json.dumps(body["request"])}, files={"photo": ADA.read_bytes()}
    )
    for answer in (by_json, by_form):
        assert [base64.b64decode(picture["b64_json"]) for picture in answer.json()["pictures"]] == python
    assert command == python


def test_an_identity_comes_back_as_a_file_that_portraits_take(client: TestClient, ada: str, tmp_path: Path) -> None:
    answer = client.post("/v1/identities", files=[("photo", ADA.read_bytes()), ("photo", ADA.read_bytes())]).json()
    assert (len(answer["photos"]), answer["token"]) == (2, None)
    assert all(photo["faces"] == 1 and len(photo["box"]) == 4 and photo["quality"] > 0 for photo in answer["photos"])
    data = base64.b64decode(ada)
    assert Identity.from_bytes(data).visible_parts
    sent = client.post("/v1/portraits", data={"request": json.dumps(SMALL)}, files={"identity": data})
    pictures = sent.json()["pictures"]
    assert [picture["seed"] for picture in pictures] == [3, 4]
    assert all(picture["likeness"] is None or math.isfinite(picture["likeness"]) for picture in pictures)
    (tmp_path / "one.png").write_bytes(base64.b64decode(pictures[0]["b64_json"]))
    record = read_record(tmp_path / "one.png")
    assert (record["seed"], record["ai_generated"]) == (3, True)


def test_several_people_are_drawn_together(client: TestClient, ada: str) -> None:
    tom = client.post("/v1/identities", files={"photo": ADA.with_name("tom.png").read_bytes()}).json()["identity"]
    halves = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    mask = Image.new("L", (96, 64), 0)  # of the shape of a picture of two
    mask.paste(255, (0, 0, 48, 64))
    for regions in (halves, [base64.b64encode(png(mask)).decode(), halves[1]]):
        request = {"prompt": "a woman and a man", "num_inference_steps": 2, "seed": 3, "regions": regions}
        answer = client.post("/v1/portraits", json={"identity": [ada, tom], "request": request})
        assert answer.status_code == 200, answer.text
    refused(client.post("/v1/portraits", json={"identity": ada, "request": request}), 400, "regions")


def test_a_picture_from_elsewhere_is_repaired_and_else_stays_as_it_is(
    client: TestClient, ada: str, studio: ConsistentIDPipeline
) -> None:
    tom = ADA.with_name("tom.png")
    request = {"prompt": "a person", "num_inference_steps": 2, "seed": 3, "repair_below": 1.0}
    request["image"] = base64.b64encode(tom.read_bytes()).decode()
    answer = client.post("/v1/repairs", json={"identity": ada, "request": request})
    assert answer.status_code == 200, answer.text
    [picture] = answer.json()["pictures"]
    python = studio.repair(tom, Identity.from_bytes(base64.b64decode(ada)), num_inference_steps=2, seed=3, below=1.0)
    assert base64.b64decode(picture["b64_json"]) == python.to_png(0)
    assert len(picture["repairs"]) == 1
    del request["image"]
    refused(client.post("/v1/repairs", json={"identity": ada, "request": request}), 400, "send the one to be repaired")
    request |= {"image": base64.b64encode(tom.read_bytes()).decode(), "num_images_per_prompt": 2}
    refused(client.post("/v1/repairs", json={"identity": ada, "request": request}), 400, "several pictures")


@pytest.mark.slow
def test_a_background_job_is_watched_and_its_pictures_are_given_once(client: TestClient, ada: str) -> None:
    request = {**SMALL, "num_inference_steps": 12}
    started = client.post("/v1/portraits", json={"identity": ada, "request": request, "background": True})
    assert started.status_code == 202
    address = started.headers["location"]
    names, last = [], {}
    with client.stream("GET", f"{address}/events", params={"preview": True}) as stream:
        for line in stream.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                names.append(value)
            elif kind == "data":
                last = json.loads(value)
                if names[-1] == "preview":
                    picture = Image.open(io.BytesIO(base64.b64decode(last["pictures"][0])))
                    assert picture.size == (128, 128)
    assert names[0] == "progress"
    assert names[-1] == last["state"] == "done"
    assert "preview" in names
    assert last["done"] == last["total"] or last["stage"] == "scoring"
    done = client.get(address).json()
    now = client.post("/v1/portraits", json={"identity": ada, "request": request}).json()
    assert done["result"]["pictures"] == now["pictures"], "being looked at changes no picture"
    refused(client.get(address), 404, "were fetched")


def test_a_job_is_cancelled(client: TestClient, ada: str) -> None:
    def cancelled() -> float:
        name = 'consistentid_jobs_total{kind="portraits",state="cancelled"}'
        lines = client.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

    before = cancelled()
    long = {**SMALL, "num_inference_steps": 50, "num_images_per_prompt": 4, "batch_size": 1}
    body = {"identity": ada, "request": long, "background": True}
    first, second = (client.post("/v1/portraits", json=body).headers["location"] for _ in range(2))
    assert client.get(second).json()["position"] >= 1
    for address in (second, first):
        assert client.delete(address).status_code == 204
        refused(client.get(address), 404)
    assert client.post("/v1/portraits", json={"identity": ada, "request": SMALL}).status_code == 200
    assert cancelled() - before == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"prompt": ""}, ["prompt", "describe the picture"]),
        ({"prompt": "x", "seed": -1}, ["seed=-1"]),
        ({"prompt": "x", "sede": 1}, ["unknown argument 'sede'"]),
        ({"prompt": "x", "num_images_per_prompt": 5}, ["at most 4"]),
        ({"prompt": ["x"] * 5}, ["at most 4"]),
        ({"prompt": "x", "best_of": 5}, ["at most 4"]),
        ({"prompt": "x", "num_inference_steps": 51}, ["at most 50"]),
        ({"prompt": "x", "width": 4096}, ["at most 1536"]),
        ({"prompt": "x", "batch_size": 512}, ["batch_size"]),
        ({"prompt": "x" * 2001}, ["characters"]),
        ({"prompt": "hat " * 300}, ["prompt"]),
        ({"prompt": "x", "image": "bm8gcGljdHVyZQ=="}, ["image"]),
        ({"prompt": "x", "image": "https://example.org/x.png"}, ["image"]),
        ({"prompt": "x", "image": "/etc/passwd"}, ["image"]),
        ({"prompt": "x", "mask": "@"}, ["mask"]),
        ({"prompt": "x", "identity": "y"}, ["unknown argument 'identity'"]),
        ({"prompt": "\ud800"}, ["JSON"]),
        ({"prompt": "x", "strength": math.nan}, ["strength"]),
    ],
)
def test_requests_that_cannot_be_met_are_refused(client: TestClient, ada: str, request_: Any, words: list[str]) -> None:
    body = json.dumps({"identity": ada, "request": request_})
    refused(client.post("/v1/portraits", content=body), 400, *words)


def test_malformed_uploads_are_refused(client: TestClient, ada: str) -> None:
    def identify(data: bytes) -> Response:
        return client.post("/v1/identities", files={"photo": data})

    whole = ADA.read_bytes()
    refused(identify(b"no picture"), 400, "photo 1", "is not a picture")
    refused(identify(whole[: len(whole) // 2]), 400, "truncated")
    refused(identify(b""), 400, "photo 1")
    refused(identify(png(Image.new("RGB", (64, 64), "blue"))), 422, "no face")
    refused(identify(png(Image.new("L", (1001, 1000)))), 413, "1 megapixels")
    refused(identify(b"x" * (5 << 20)), 413, "4 MB")
    refused(client.post("/v1/identities", files=[("photo", whole)] * 4), 400, "at most 3")
    refused(client.post("/v1/identities", data={"photo": "text"}, files={"other": b"x"}), 400)
    refused(client.post("/v1/identities", json={}), 415, "multipart")
    head = {"content-type": "multipart/form-data; boundary=x"}
    for broken in (b"", b"--x", b"\0" * 100, b"--x\r\nContent-Disposition: form-data; name=photo\r\n\r\n"):
        refused(client.post("/v1/identities", content=broken, headers=head), 400)
    refused(client.post("/v1/identities", content=b"", headers={"content-type": "multipart/form-data"}), 400)
    for body in (b"", b"[", b"[]", b"[" * 100_000, b"\xff", b'{"request": 1}', b'{"nobody": 1}', b'{"request": {}}'):
        refused(client.post("/v1/portraits", content=body), 400)
    request = {"request": SMALL}
    refused(client.post("/v1/portraits", json=request), 400, "nobody to be drawn")
    refused(client.post("/v1/portraits", json={**request, "identity": "id_unknown"}), 404)
    refused(client.post("/v1/portraits", json={**request, "identity": photo()}), 400, "not a readable safetensors")
    cut = base64.b64encode(base64.b64decode(ada)[:5000]).decode()
    refused(client.post("/v1/portraits", json={**request, "identity": cut}), 400, "not a readable safetensors")
    refused(client.get("/v1/nothing"), 404, "nothing at this path")
    refused(client.put("/v1/portraits"), 405)


def test_nothing_of_an_upload_touches_the_disk_and_exif_does_not_come_back(
    client: TestClient, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_disk(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", on_disk)
    exif = Image.Exif()
    exif[0x8298] = "owner of the camera"
    with Image.open(ADA) as picture:
        large = picture.convert("RGB").resize((900, 900))
    data = png(large, exif=exif, compress_level=0)
    assert len(data) > 1 << 20
    assert client.post("/v1/identities", files={"photo": data}).status_code == 200
    mask = Image.new("L", large.size, 0)
    mask.paste(255, (300, 300, 600, 600))
    given = {name: base64.b64encode(x).decode() for name, x in {"image": data, "mask": png(mask)}.items()}
    request = {**SMALL, "num_images_per_prompt": 1, **given}
    answer = client.post("/v1/portraits", json={"identity": ada, "request": request})
    assert answer.status_code == 200, answer.text
    made = base64.b64decode(answer.json()["pictures"][0]["b64_json"])
    assert b"owner of the camera" not in made
    assert Image.open(io.BytesIO(made)).size == (900, 900)


def test_kept_identities_are_their_clients_alone_and_for_a_while(studio: ConsistentIDPipeline) -> None:
    service = Service(lambda: studio, Limits(keep_identities=3600))
    with TestClient(create_app(service), LOCAL) as client:
        until_ready(client)
        token = client.post("/v1/identities", files={"photo": ADA.read_bytes()}).json()["token"]
        body = {"identity": token, "request": {**SMALL, "num_images_per_prompt": 1}}
        assert client.post("/v1/portraits", json=body).status_code == 200
        with TestClient(client.app, LOCAL, client=("10.0.0.9", 1)) as other:
            refused(other.post("/v1/portraits", json=body), 404)
            refused(other.delete(f"/v1/identities/{token}"), 404)
    service = Service(lambda: studio, Limits(keep_identities=0.01))
    with TestClient(create_app(service), LOCAL) as client:
        until_ready(client)
        token = client.post("/v1/identities", files={"photo": ADA.read_bytes()}).json()["token"]
        time.sleep(0.05)
        refused(client.post("/v1/portraits", json={**body, "identity": token}), 404)


def test_the_document_names_every_argument_of_a_request(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/portraits"]["post"]["requestBody"]["content"]
    request = content["application/json"]["schema"]["properties"]["request"]
    assert set(request["properties"]) == set(plain_arguments())
    assert all(item["description"] for item in request["properties"].values())
    assert set(request["example"]) <= set(plain_arguments())
    assert "multipart/form-data" in content
    for path in ("/v1/identities", "/v1/jobs/{id}", "/v1/jobs/{id}/events", "/health", "/ready", "/metrics"):
        assert path in document["paths"]


def test_metrics_name_routes_and_no_paths(client: TestClient) -> None:
    client.get("/v1/jobs/secret-id")
    text = client.get("/metrics").text
    assert 'route="/v1/jobs/{id}",status="404"' in text
    assert "secret-id" not in text
    assert "consistentid_ready 1.0" in text
