"""Fetching a preset's networks from a server on this machine that speaks as the hub and as a file server do."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from consistentid.cli import main
from consistentid.presets.fetch import choose, lacking
from consistentid.presets.read import load_preset

COMMIT = "c" * 40
ONNX = os.urandom(50_000)
WEIGHTS = os.urandom(3_000_000)
INDEX = {
    "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
    "safety_checker": [None, None], "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
FILES = {
    "me/base": {
        "model_index.json": json.dumps(INDEX).encode(), "unet/config.json": b"{}", "vae/config.json": b"{}",
        "unet/diffusion_pytorch_model.bin": WEIGHTS, "vae/diffusion_pytorch_model.bin": WEIGHTS[:20_000],
        "vae/diffusion_pytorch_model.safetensors": WEIGHTS[:30_000], "scheduler/scheduler_config.json": b"{}",
        "whole.safetensors": WEIGHTS,
    },
    "me/clip": {"config.json": b"{}", "model.safetensors": WEIGHTS[:90_000], "pytorch_model.bin": WEIGHTS},
    "me/adapter": {"adapter.bin": WEIGHTS[:70_000]},
    "me/parser": {"parser.pth": WEIGHTS[:60_000]},
}  # fmt: skip


def _pack() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("det.onnx", ONNX)
        archive.writestr("rec.onnx", ONNX[::-1])
    return content.getvalue()


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.contents = {f"/{r}/resolve/{COMMIT}/{n}": c for r, files in FILES.items() for n, c in files.items()}
        self.contents["/pack.zip"] = _pack()
        self.falsified: set[str] = set()
        self.silent: dict[str, int] = {}
        self.closing = threading.Event()
        self.asked: list[tuple[str, str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if self.path.startswith("/api/models/"):
            repo = "/".join(self.path.split("?")[0].split("/")[3:5])
            names = [{"rfilename": n, "type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                     for n, c in FILES[repo].items()]  # fmt: skip
            data = names if "/tree/" in self.path else {"id": repo, "sha": COMMIT, "siblings": names}
            return self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json"}, body)
        content = self.server.contents.get(self.path)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        large = len(content) > 10_000
        tag = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if body:
            self.server.asked.append((self.path, self.headers.get("Range")))
            if self.path in self.server.falsified:
                content = bytes(len(content))
            if self.server.silent.get(self.path, 0) > 0:
                self.server.silent[self.path] -= 1
                return self._fall_silent(content, headers)
        begin = self.headers.get("Range", "").removeprefix("bytes=").split("-")[0]
        if begin and body:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return self._send(206, content[int(begin) :], headers, body)
        return self._send(200, content, headers, body)

    def _fall_silent(self, content: bytes, headers: dict[str, str]) -> None:
        """Half of it, and then nothing more, on a connection that stays open."""
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.closing.wait(600)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def preset(server: Server, tmp_path: Path) -> Path:
    at = f"revision: {COMMIT}"
    pack = f"kind: insightface, url: {server.address}/pack.zip, path: ./root/models/pack"
    sums = [hashlib.sha256(content).hexdigest() for content in (ONNX, ONNX[::-1])]
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
base: {{repo: me/base, {at}, files: [model_index.json, unet/diffusion_pytorch_model.bin], megabytes: 4}}
adapter: {{repo: me/adapter, {at}, files: [adapter.bin], megabytes: 1}}
image_encoder: {{repo: me/clip, {at}, files: [config.json, model.safetensors], megabytes: 1}}
parser: {{kind: bisenet, repo: me/parser, {at}, files: [parser.pth], megabytes: 1}}
detector: {{{pack}/det.onnx, sha256: {sums[0]}, megabytes: 1}}
recogniser: {{{pack}/rec.onnx, sha256: {sums[1]}}}
"""
    )
    return path


def run(command: str, preset: Path, address: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since huggingface_hub reads its settings once."""
    settings = {
        "HF_HOME": str(preset.parent / "hub"),
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    }
    return subprocess.run(
        [sys.executable, "-m", "consistentid", command, "--preset", str(preset), *more], capture_output=True,
        text=True, env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **settings, **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_one_command_fetches_all_and_goes_on_where_it_stopped(server: Server, preset: Path) -> None:
    before = json.loads(run("doctor", preset, server.address, "--json").stdout)
    assert [x["state"] for x in before["networks"]] == ["to fetch"] * 6
    assert before["fetch"] == f"consistentid fetch --preset {preset}"
    blobs = preset.parent / "hub" / "hub" / "models--me--base" / "blobs"
    blobs.mkdir(parents=True)
    large = hashlib.sha256(WEIGHTS).hexdigest()
    (blobs / f"{large}.part").write_bytes(WEIGHTS[:2_000_000])  # as a killed run leaves it
    result = run("fetch", preset, server.address)
    assert result.returncode == 0, result.stderr
    roles = [line.split()[0] for line in result.stdout.splitlines()]
    assert roles == ["detector", "recogniser", "parser", "image_encoder", "base", "adapter"]
    unet = f"/me/base/resolve/{COMMIT}/unet/diffusion_pytorch_model.bin"
    assert [how for name, how in server.asked if name == unet] == ["bytes=2000000-"]
    assert "/pack.zip" in [name for name, _ in server.asked]
    asked = {name.rpartition(COMMIT)[2] for name, _ in server.asked}
    assert not asked & {"/pytorch_model.bin", "/whole.safetensors", "/vae/diffusion_pytorch_model.safetensors"}
    assert (preset.parent / "root" / "models" / "pack" / "det.onnx").read_bytes() == ONNX
    snapshot = blobs.parent / "snapshots" / COMMIT
    assert (snapshot / "unet" / "diffusion_pytorch_model.bin").read_bytes() == WEIGHTS
    assert not list(preset.parent.rglob("*.part*"))
    assert not lacking(snapshot)

    server.asked.clear()
    again = run("fetch", preset, "http://127.0.0.1:1", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout == result.stdout
    assert server.asked == []


@pytest.mark.slow
def test_a_truncated_file_of_the_hub_is_named_with_what_to_delete(server: Server, preset: Path) -> None:
    assert run("fetch", preset, server.address).returncode == 0
    (blob,) = (preset.parent / "hub").rglob(f"blobs/{hashlib.sha256(WEIGHTS).hexdigest()}")
    blob.write_bytes(WEIGHTS[:1_000_000])
    broken = run("fetch", preset, server.address)
    assert broken.returncode == 2
    assert f"delete {blob}, and it is fetched again" in broken.stderr


@pytest.mark.slow
def test_what_comes_damaged_is_not_taken(server: Server, preset: Path) -> None:
    server.falsified.add(f"/me/parser/resolve/{COMMIT}/parser.pth")
    result = run("fetch", preset, server.address)
    assert result.returncode == 2
    assert "error: me/parser/parser.pth: what came is damaged" in result.stderr
    assert not [x for x in (preset.parent / "hub").rglob("*") if x.is_file() and x.stat().st_size == 60_000]
    server.falsified.clear()
    assert run("fetch", preset, server.address).returncode == 0
    onnx = preset.parent / "root" / "models" / "pack" / "rec.onnx"
    onnx.write_bytes(ONNX[:100])
    for command, code in (("fetch", 2), ("doctor", 2)):
        result = run(command, preset, server.address)
        assert result.returncode == code
        assert f"{onnx}: is damaged" in result.stderr + result.stdout
        assert f"delete {onnx.parent}, and it is fetched again" in result.stderr + result.stdout


@pytest.mark.slow
def test_a_server_that_falls_silent_is_asked_again(server: Server, preset: Path) -> None:
    parser = f"/me/parser/resolve/{COMMIT}/parser.pth"
    server.silent |= {parser: 1, "/pack.zip": 1}
    result = run("fetch", preset, server.address)
    assert result.returncode == 0, result.stderr
    asked = [name for name, _ in server.asked]
    assert (asked.count(parser), asked.count("/pack.zip")) == (2, 2)
    (whole,) = (preset.parent / "hub").rglob("parser.pth")
    assert whole.read_bytes() == WEIGHTS[:60_000]
    assert (preset.parent / "root" / "models" / "pack" / "rec.onnx").read_bytes() == ONNX[::-1]


@pytest.mark.slow
def test_a_server_that_stays_silent_is_left_and_said_to_be_so(server: Server, preset: Path) -> None:
    parser = f"/me/parser/resolve/{COMMIT}/parser.pth"
    server.silent[parser] = 100
    result = run("fetch", preset, server.address)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "parser.pth" in line
    assert "its server cannot be reached" in line
    assert "Traceback" not in result.stderr
    server.silent.clear()
    assert run("fetch", preset, server.address).returncode == 0, "what was there is gone on with"


@pytest.mark.slow
def test_without_a_network_one_line_says_offline(preset: Path) -> None:
    with socket.socket() as taken:  # a port that nobody answers on
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        content = preset.read_text().split("detector:")[0] + "detector: {kind: labels}\nrecogniser: me/r/r.onnx\n"
        preset.write_text(
            content.replace("me/r/r.onnx", f"{{kind: onnx, repo: me/r, files: [r.onnx], {'megabytes: 1'}}}")
        )
        result = run("fetch", preset, nobody)
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.returncode == 2
        assert line.startswith("error: me/r/r.onnx: offline: it is not here, and its server cannot be reached (")
        assert "Traceback" not in result.stderr
        result = run("fetch", preset, nobody, HF_HUB_OFFLINE="1")
        assert result.stderr.startswith("error: me/r/r.onnx: offline: HF_HUB_OFFLINE is set"), result.stderr
        report = json.loads(run("doctor", preset, nobody, "--json").stdout)
        assert report["unpinned"] == ["recogniser"]


def test_one_set_of_weights_is_chosen_as_the_libraries_do() -> None:
    names = ["a/config.json", "a/model.safetensors", "a/model.fp16.safetensors", "a/pytorch_model.bin", "a/notes.md"]
    assert choose(names, None) == ["a/config.json", "a/model.safetensors"]
    assert choose(names, "fp16") == ["a/config.json", "a/model.fp16.safetensors"]
    assert choose([*names, "b/diffusion_pytorch_model.bin"], None) == [
        "a/config.json", "a/pytorch_model.bin", "b/diffusion_pytorch_model.bin",
    ]  # fmt: skip
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert sorted(choose(shards, None)) == shards


def test_the_released_adapter_for_sdxl_is_said_to_be_unpinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = CliRunner().invoke(main, ["doctor", "--preset", "sdxl"])
    assert "unpinned, so what is fetched may change: adapter" in result.stdout
    assert "this fetches all of it: consistentid fetch --preset sdxl" in result.stdout
    assert load_preset("sdxl").detector.sha256 == load_preset("sd15").detector.sha256
