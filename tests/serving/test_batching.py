"""Requests of several clients, sampled together by the drawn preset."""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from served import ADA

from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.serving.queue import Job
from consistentid.serving.service import Service

TOM = ADA.with_name("tom.png")
STEPS = 2


class Held:
    """Keeps the worker busy until requests wait."""

    def __init__(self, service: Service) -> None:
        self._go, self._service = threading.Event(), service

    def __enter__(self) -> Held:
        began = threading.Event()

        def work(job: Job) -> None:
            began.set()
            assert self._go.wait(300)

        self._service.queue.submit("identify", "the test", work)
        assert began.wait(300)
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()


def together(client: TestClient) -> dict[str, float]:
    """How many requests were done together, as /metrics says it: sum and count."""
    found = {}
    for line in client.get("/metrics").text.splitlines():
        for name in ("sum", "count"):
            if line.startswith(f'consistentid_together_{name}{{kind="portraits"}}'):
                found[name] = float(line.rpartition(" ")[2])
    return found or {"sum": 0.0, "count": 0.0}


def picture(answer: dict[str, Any], number: int = 0) -> np.ndarray:
    data = base64.b64decode(answer["pictures"][number]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.slow
def test_different_people_are_sampled_together_and_each_client_gets_their_own(
    client: TestClient, service: Service, studio: ConsistentIDPipeline
) -> None:
    photos = {name: base64.b64encode(path.read_bytes()).decode() for name, path in (("ada", ADA), ("tom", TOM))}
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("ada", {"prompt": "a woman in a red hat", "seed": 1}, {}),
        ("tom", {"prompt": "a man on a beach", "seed": 2, "face_text": "a face with green eyes " * 20}, {}),
        ("tom", {"prompt": "a man", "seed": 3, "merge_at": 0.5, "num_images_per_prompt": 2}, {}),
        ("tom", {"prompt": "word " * 200, "seed": 4}, {}),
        ("ada", {"prompt": "a woman in a red hat", "seed": 1}, {"alone": True}),
        ("ada", {"prompt": "a woman", "seed": 1, "image": photos["ada"]}, {}),
    ]
    before = together(client)
    answers: list[dict[str, Any]] = []
    with Held(service):
        jobs = []
        for who, request, more in asked:
            body = {"photos": [photos[who]], "request": {**request, "num_inference_steps": STEPS}, **more}
            answer = client.post("/v1/portraits", json={**body, "background": True})
            assert answer.status_code == 202, answer.text
            jobs.append(answer.headers["location"])
    for address in jobs:
        with client.stream("GET", f"{address}/events") as stream:
            for _ in stream.iter_lines():
                pass
        answers.append(client.get(address).json())
    assert not studio.sampler._inputs, "of what is done nothing is kept"
    after = together(client)
    assert (after["sum"] - before["sum"], after["count"] - before["count"]) == (6, 3), "four together, two alone"
    assert [answer["state"] for answer in answers] == ["done", "done", "done", "failed", "done", "done"]
    assert "prompt" in answers[3]["error"]["message"]
    results = [answer.get("result") for answer in answers]
    people = {"ada": studio.identify(ADA), "tom": studio.identify(TOM)}
    for (who, request, _), result in zip(asked[:3], results, strict=False):
        alone = studio(people[who], **{**request, "num_inference_steps": STEPS})
        for number in range(len(alone)):
            same = np.asarray(Image.open(io.BytesIO(alone.to_png(number)))).astype(int)  # with its mark, as it leaves
            assert np.abs(picture(result, number) - same).max() <= 2
        assert result["record"] == alone.record
    told = ["cut to fit" in " ".join(result["warnings"]) for result in results[:3]]
    assert told == [False, True, False], "a warning, which may hold words of a prompt, is for its client alone"
    exact = studio(people["ada"], **{**asked[4][1], "num_inference_steps": STEPS})
    assert base64.b64decode(results[4]["pictures"][0]["b64_json"]) == exact.to_png(0)


@pytest.mark.parametrize("value", ["yes", 2, "1 "])
def test_alone_is_a_truth(client: TestClient, value: object) -> None:
    answer = client.post("/v1/portraits", json={"request": {"prompt": "a woman"}, "alone": value})
    assert answer.status_code == 400
    assert "alone=" in answer.json()["error"]["message"]
