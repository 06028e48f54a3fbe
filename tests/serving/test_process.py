"""The command as a process of its own, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner, Result
from served import ADA

from consistentid.cli import main

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the lines of its log."""
    line = [sys.executable, "-m", "consistentid", "serve", "--no-page", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "CONSISTENTID_TOKEN": TOKEN}
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr
    lines = [process.stderr.readline()]
    try:
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        yield json.loads(lines[0])["url"], lines
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        reader.join(60)
    assert code in (0, -signal.SIGTERM), lines


@pytest.mark.slow
def test_a_process_answers_at_once_is_ready_later_and_frees_the_place_of_who_leaves(
    server: tuple[str, list[str]],
) -> None:
    url, lines = server
    with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/health").json()["status"] == "ok"
        first = client.get("/ready")
        assert first.status_code == 503, "loading torch alone takes longer"
        assert first.json()["state"] == "loading"
        early = client.post("/v1/identities", files={"photo": ADA.read_bytes()})
        assert early.status_code == 503
        assert int(early.headers["retry-after"]) > 0
        for _ in range(3000):
            if client.get("/ready").status_code == 200:
                break
            time.sleep(0.1)
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/health").status_code == 200
        made = client.post("/v1/identities", files={"photo": ADA.read_bytes()})
        assert made.status_code == 200, made.text
        request = {"prompt": "a woman of secrets", "num_inference_steps": 100, "num_images_per_prompt": 16}
        body = {"identity": made.json()["identity"], "request": request}
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/portraits", json=body, timeout=0.5)
        began = time.monotonic()
        while 'kind="portraits",state="cancelled"} 1.0' not in client.get("/metrics").text:
            assert time.monotonic() - began < 120, lines
            time.sleep(0.1)
    events = [json.loads(line) for line in list(lines)]
    assert {"listening", "ready", "request"} <= {event["event"] for event in events}
    assert "secrets" not in "".join(lines)


@pytest.mark.slow
def test_the_stock_client_of_openai_is_answered(server: tuple[str, list[str]]) -> None:
    client = openai.OpenAI(base_url=f"{server[0]}/v1", api_key=TOKEN, max_retries=60)  # which waits for the weights
    made = client.images.edit(image=ADA, prompt="a woman", extra_body={"num_inference_steps": 2, "seed": 3})
    assert made.data is not None
    assert made.data[0].b64_json is not None
    with pytest.raises(openai.AuthenticationError, match="token is needed"):
        client.with_options(api_key="another").images.edit(image=ADA, prompt="a woman")


@pytest.mark.slow
def test_the_command_line_has_the_same_bytes_made_by_a_service(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(out: str, *options: str) -> Result:
        line = ["generate", str(ADA), "--prompt", "a woman in a red hat", "--num", "2", "--steps", "2", "--seed", "7"]
        return CliRunner().invoke(main, [*line, "--part", "eyes=green eyes", "--out", str(tmp_path / out), *options])

    url = server[0]
    monkeypatch.delenv("CONSISTENTID_TOKEN", raising=False)
    refused = generate("none", "--server", url)
    assert refused.exit_code == 2
    assert "a token is needed" in refused.stderr
    assert "set the environment variable CONSISTENTID_TOKEN" in refused.stderr
    assert not (tmp_path / "none").exists()
    monkeypatch.setenv("CONSISTENTID_TOKEN", TOKEN)
    other = generate("none", "--server", url, "--preset", "sd15")
    assert (other.exit_code, "serves the preset 'drawn', and not 'sd15'" in other.stderr) == (2, True), other.stderr
    theirs, ours = generate("theirs", "--server", url, "--preset", "drawn"), generate("ours", "--device", "cpu")
    assert (theirs.exit_code, ours.exit_code) == (0, 0), theirs.output + ours.output
    for file in (tmp_path / "ours").iterdir():
        if file.name.startswith("portrait"):  # the sheet shows pictures as they came, with their invisible mark
            assert (tmp_path / "theirs" / file.name).read_bytes() == file.read_bytes(), file.name
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("theirs", "ours")]
    for result in results:
        del result["sheet"]
        for picture in result["pictures"]:
            picture["file"] = Path(picture["file"]).name
    assert results[0] == results[1]
    bad = generate("none", "--server", url, "--num", "17")
    assert (bad.exit_code, "at most 16" in bad.stderr) == (2, True), bad.output


def test_it_binds_to_others_only_with_a_token_or_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONSISTENTID_TOKEN", raising=False)
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "--token-file, or --allow-anyone" in result.stderr
    monkeypatch.setenv("CONSISTENTID_TOKEN", "short")
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert "CONSISTENTID_TOKEN: token 1 is no secret" in result.stderr


def test_a_port_that_is_taken_is_told_of(server: tuple[str, list[str]]) -> None:
    port = server[0].rpartition(":")[2]
    result = CliRunner().invoke(main, ["serve", "--port", port])
    assert result.exit_code == 2
    assert f"--port {port}: cannot listen there" in result.stderr
