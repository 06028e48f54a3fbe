"""The service as several replicas under Ray Serve."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from served import ADA, LOCAL, until_ready

import tiny
from consistentid.cli import main
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request
from consistentid.serving.api import create_app
from consistentid.serving.client import Client
from consistentid.serving.service import Service


def serve(*options: str) -> Result:
    return CliRunner().invoke(main, ["serve", "--engine", "ray", "--port", "0", *options])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("replica: 2", "unknown options replica; known are replicas, cpus, gpus, batch_size, address"),
        ("replicas: 0", "replicas=0 is not allowed; give an integer from 1 to 10000"),
        ("replicas: two", "replicas='two' is not allowed"),
        ("gpus: 1.5", "gpus=1.5 is not allowed; give a fraction of one GPU, or whole ones"),
        ("gpus: -0.5", "gpus=-0.5 is not allowed"),
        ("batch_size: 0", "batch_size=0 is not allowed"),
        ("- replicas", "is a mapping of options"),
        ("replicas: 1\nreplicas: 2", "replicas is there twice"),
    ],
)
def test_a_file_that_says_something_else_is_refused(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    result = serve("--config", str(file))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert f"{file}" in result.stderr
    assert words in result.stderr


def test_options_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("replicas: 2")
    alone = CliRunner().invoke(main, ["serve", "--config", str(file)])
    assert (alone.exit_code, "give --engine ray, too" in alone.stderr) == (2, True), alone.output
    page = serve("--page")
    assert (page.exit_code, "a page is of one process" in page.stderr) == (2, True), page.output
    kept = serve("--config", str(file), "--keep-identities", "60")
    assert (kept.exit_code, "would be known to one of them alone" in kept.stderr) == (2, True), kept.output
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    without = serve("--config", str(file))
    assert (without.exit_code, "pip install 'consistentid[ray]'" in without.stderr) == (2, True), without.output


def test_what_would_stay_in_one_replica_is_refused_in_words(studio: ConsistentIDPipeline) -> None:
    service = Service(lambda: studio, shared=True)
    service.start(wait=True)
    with TestClient(create_app(service), LOCAL) as client:
        until_ready(client)
        assert client.get("/ready").json()["jobs"] is False
        asked = {"request": {"prompt": "a woman", "num_inference_steps": 1, "seed": 3, "base_alone": True}}
        job = client.post("/v1/portraits", json={**asked, "background": True})
        assert (job.status_code, job.json()["error"]["code"]) == (400, "no_jobs")
        assert "wait for the answer" in job.json()["error"]["message"]
        numbers = client.get("/metrics")
        assert (numbers.status_code, numbers.json()["error"]["code"]) == (404, "no_metrics")
        made = client.post("/v1/portraits", json=asked)
        assert (made.status_code, made.json()["pictures"][0]["seed"]) == (200, 3)
        seen = client.post("/v1/identities", files={"photo": ADA.read_bytes()}).json()
        assert (seen["token"], seen["expires_in"]) == (None, None)


@pytest.mark.slow
def test_two_replicas_at_one_address(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", exc_type=ImportError)
    file = tmp_path / "serve.yaml"
    file.write_text("replicas: 2\ncpus: 0.5\nbatch_size: 2\n")
    options = ["--engine", "ray", "--config", str(file), "--preset", str(tiny.preset()), "--port", "0"]
    line = [sys.executable, "-m", "consistentid", "serve", *options, "--device", "cpu"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CONSISTENTID_TOKEN", "RAY_ADDRESS")
    }
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()

    def until(found: Callable[[], object]) -> None:
        for _ in range(12_000):
            if found():
                return
            if process.poll() is not None and any("Ray does not start here" in text for text in lines):
                pytest.skip("Ray gives itself half a minute to start, and this machine is too busy for that")
            assert process.poll() is None, "".join(lines)
            time.sleep(0.1)
        raise AssertionError("".join(lines))

    def pids(event: str) -> set[int]:
        """The replicas that have written such lines into the log."""
        return {int(pid) for text in lines if event in text for pid in re.findall(r"pid=(\d+)", text)}

    try:
        until(lambda: any('"event": "listening"' in text for text in lines))
        url = next(json.loads(text)["url"] for text in lines if '"event": "listening"' in text)
        until(lambda: len(pids('"event": "ready"')) == 2)
        stream = BytesIO()
        tiny.portrait().save(stream, "PNG")
        with httpx.Client(base_url=url, timeout=None, trust_env=False) as client:
            identity = client.post("/v1/identities", files={"photo": stream.getvalue()}).json()["identity"]

            def seed_of(seed: int) -> int:
                request = {"prompt": "a woman", "num_inference_steps": 2, "seed": seed}
                made = client.post("/v1/portraits", json={"identity": identity, "request": request})
                assert made.status_code == 200, made.text
                return int(made.json()["pictures"][0]["seed"])

            with ThreadPoolExecutor(8) as threads:
                assert list(threads.map(seed_of, range(16))) == list(range(16))
            until(lambda: len(pids('"route": "/v1/portraits"')) == 2)
            with Client(url) as ours:  # which asks for jobs where there are some
                ours.wait("tiny")
                made = ours.generate(Request(prompt="a woman", num_inference_steps=2, seed=5, base_alone=True))
                assert made.seeds == [5]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(600)
        reader.join(60)
