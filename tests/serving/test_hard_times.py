"""What a machine does to a service: a full disk, clients that vanish, a kill; afterwards it answers as before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from served import ADA

resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX's")


def no_file_grows() -> None:
    """Every write to a file fails, as on a full disk, and for root, too."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextmanager
def served(folder: Path, port: int) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A service on that port, whose log and temporary files lie in that folder."""
    environment = {name: value for name, value in os.environ.items() if name != "CONSISTENTID_TOKEN"}
    environment |= {"TMPDIR": str(folder / "tmp")}
    line = [sys.executable, "-m", "consistentid", "serve", "--no-page", "--port", str(port), "--device", "cpu"]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("ab"))
        process = subprocess.Popen(line, stderr=log, env=environment, preexec_fn=no_file_grows)
        limits = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=None, trust_env=False, limits=limits))
        try:
            yield client, process
        finally:
            process.kill()
            process.wait(60)


def until(found: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    for _ in range(12_000):
        assert process.poll() is None, process.returncode
        try:
            if found():
                return
        except httpx.TransportError:  # it does not listen yet
            pass
        time.sleep(0.1)
    raise AssertionError("nothing comes of it")


def portrait(client: httpx.Client) -> bytes:
    """The answer to somebody who wants a picture."""
    asked = {"request": '{"prompt": "a woman", "seed": 1, "num_inference_steps": 2}'}
    made = client.post("/v1/portraits", data=asked, files={"photo": ADA.read_bytes()})
    assert made.status_code == 200, made.text
    return made.content


@pytest.mark.slow
def test_a_full_disk_clients_that_vanish_and_a_kill(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    long = {"prompt": "a woman", "num_inference_steps": 100, "num_images_per_prompt": 16, "base_alone": True}
    with served(tmp_path, port) as (client, process):
        until(lambda: client.get("/ready").status_code == 200, process)
        first = portrait(client)
        assert (tmp_path / "log").stat().st_size == 0, "the disk is full, and so nothing can be logged"

        with socket.create_connection(("127.0.0.1", port)) as half:  # an upload that breaks off
            half.sendall(
                b"POST /v1/identities HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
                b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n' + b"a" * 1_500_000
            )
        for _ in range(3):  # and clients that do not wait for their pictures
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/portraits", json={"request": long}, timeout=1)
        until(lambda: "consistentid_queue_running 0.0" in client.get("/metrics").text, process)
        assert 'kind="portraits",state="cancelled"} 3.0' in client.get("/metrics").text
        assert portrait(client) == first
        assert not list((tmp_path / "tmp").iterdir())

        jobs = [client.post("/v1/portraits", json={"request": long, "background": True}).json() for _ in range(3)]
        until(lambda: client.get(f"/v1/jobs/{jobs[0]['id']}").json()["state"] == "running", process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        with pytest.raises(httpx.TransportError):
            client.get("/health")
    with served(tmp_path, port) as (client, process):  # as systemd does it
        until(lambda: client.get("/health").status_code == 200, process)
        lost = client.get(f"/v1/jobs/{jobs[0]['id']}")
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "no_job")
        until(lambda: client.get("/ready").status_code == 200, process)
        assert portrait(client) == first
    assert not list((tmp_path / "tmp").iterdir())
