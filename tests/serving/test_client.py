"""What a caller of `--server` is told where nobody useful answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from served import ADA

from consistentid.cli import main

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def answering() -> Iterator[Callable[[Answers], str]]:
    """Starts something that answers to a path with a status and JSON; None breaks the connection off."""
    servers = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                status, body = answers.get(self.path, (404, {}))
                if body is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def error_of(url: str, out: Path, *options: str) -> str:
    line = ["generate", str(ADA), "--prompt", "a woman", "--out", str(out), "--server", url, *options]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error:") == 1
    assert not list(out.iterdir() if out.exists() else ()), "nothing was written"
    return result.stderr


HEALTH = (200, {"status": "ok", "version": version("consistentid")})
READY = (200, {"state": "ready", "preset": "drawn"})


def test_nobody_somebody_else_another_version(answering: Callable[[Answers], str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "nobody answers there; start it with" in error_of(f"http://127.0.0.1:{port}", tmp_path)
    for answer in ((200, {}), (404, {}), (200, b"<html>"), (200, [1]), (200, {"version": 3})):
        assert "is no service of consistentid" in error_of(answering({"/health": answer}), tmp_path)
    other = answering({"/health": (200, {"version": "99.0"})})
    assert "is consistentid 99.0, and this is" in error_of(other, tmp_path)
    failed = {"/health": HEALTH, "/ready": (503, {"state": "failed", "stage": "base: no such file"})}
    assert "cannot load its weights: base: no such file" in error_of(answering(failed), tmp_path)


def test_a_service_that_goes_away_or_answers_nonsense(answering: Callable[[Answers], str], tmp_path: Path) -> None:
    start: Answers = {"/health": HEALTH, "/ready": READY}
    assert "the service is gone" in error_of(answering({**start, "/v1/portraits": (200, None)}), tmp_path)
    broken = {**start, "/v1/portraits": (500, b"<html>")}
    assert "answers with 500" in error_of(answering(broken), tmp_path)
    assert "answers with what is no job" in error_of(answering({**start, "/v1/portraits": (200, {})}), tmp_path)


@pytest.mark.parametrize("url", ["127.0.0.1:7860", "ftp://host", "http://", "http://host:port", "http://host:0", ""])
def test_what_is_no_url(url: str, tmp_path: Path) -> None:
    assert "is no URL of a service" in error_of(url, tmp_path)


@pytest.mark.parametrize(
    "options", [("--lora", "x"), ("--base", "x"), ("--scheduler", "lcm"), ("--device", "cpu"), ("--low-memory",)]
)
def test_options_that_are_the_service_s(options: tuple[str, ...], tmp_path: Path) -> None:
    assert f"{options[0]} says what a service has chosen" in error_of("http://127.0.0.1:9", tmp_path, *options)


def test_who_calls_needs_no_library_of_the_service() -> None:
    """The extra `serve` is for those who serve: `pip install consistentid` is enough for `--server`."""
    code = "import sys; sys.modules.update(dict.fromkeys(('fastapi', 'starlette', 'uvicorn', 'prometheus_client')));"
    line = [sys.executable, "-c", code + "import consistentid.cli.generate, consistentid.serving.client"]
    result = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (result.returncode, result.stderr) == (0, "")
