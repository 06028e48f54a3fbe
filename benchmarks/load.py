"""Many clients at once on one service: nothing lost, nothing crossed, memory flat; batches against one at a time.

    python benchmarks/load.py                                    # 200 requests of 20 clients, the preset drawn
    python benchmarks/load.py --requests 40 --clients 8 --steps 6

Starts `consistentid serve` on a free port. Each client is a thread with a person of its own, drawn by the preset's
world, who sends an identity and asks for a portrait again and again: in one round as anybody sends it, in the next with
the same seed and sampled `alone`. So what else the machine does falls on both, and each picture of a batch can be held
against what it is alone: a picture of another client's would differ in all of it. The preset's judge, which never
conditions, says how alike the pictures are to their client's photo and to those of the others.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
import httpx
import numpy as np
import psutil
from PIL import Image


@dataclass(frozen=True)
class Sent:
    """One request and what came of it."""

    client: int
    seed: int
    status: int
    picture: Image.Image | None
    recorded_seed: int | None
    seconds: float


def client_of(url: str) -> httpx.Client:
    """A client that opens a connection for each call: a busy machine lets those that wait be closed."""
    return httpx.Client(base_url=url, timeout=900, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


class Server:
    """`consistentid serve` as a process of its own."""

    def __init__(self, *options: str, **environment: str) -> None:
        line = [sys.executable, "-m", "consistentid", "serve", "--port", "0", "--device", "cpu", *options]
        began = time.monotonic()
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
        assert self.process.stderr
        self.url = json.loads(self.process.stderr.readline())["url"]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        with client_of(self.url) as http:
            http.get("/health").raise_for_status()
            self.answers = time.monotonic() - began, self.cpu
            while (answer := http.get("/ready")).status_code != 200:
                if answer.json()["state"] == "failed":
                    raise SystemExit(answer.text)
                time.sleep(0.2)
        self.ready = time.monotonic() - began, self.cpu

    @property
    def cpu(self) -> float:
        """Seconds of processors that it took so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def together(self) -> tuple[float, float]:
        """Requests for portraits so far, and batches in which they were sampled."""
        found = {"sum": 0.0, "count": 0.0}
        for line in httpx.get(f"{self.url}/metrics", timeout=60, trust_env=False).text.splitlines():
            for name in found:
                if line.startswith(f'consistentid_together_{name}{{kind="portraits"}}'):
                    found[name] = float(line.rpartition(" ")[2])
        return found["sum"], found["count"]

    def close(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(120)


def photos_of_people(count: int) -> Iterator[bytes]:
    """A portrait of each of people who are not those of the training; of some the face may be hidden."""
    from consistentid.drawn.portraits import draw, sample_people, sample_scenes

    people, scenes = (
        sample_people(range(count), split="test"),
        sample_scenes([(i, 0) for i in range(count)], split="test"),
    )
    for picture in draw(people, scenes, 128).pixels():
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        yield stream.getvalue()


def measure(server: Server, clients: int, requests: int, steps: int, say: Callable[[str], object]) -> Any:
    """Sends all requests in rounds of one for each client; every other round is sampled alone."""
    with client_of(server.url) as http:
        identities: list[str] = []
        photos: list[bytes] = []
        for photo in photos_of_people(2 * clients):
            answer = http.post("/v1/identities", files={"photo": photo})
            if answer.status_code == 200 and len(photos) < clients:
                identities.append(answer.json()["identity"])
                photos.append(photo)

        def ask(client: int, seed: int, alone: bool) -> Sent:
            body = {
                "identity": identities[client],
                "alone": alone,
                "request": {"prompt": "a portrait of a person", "seed": seed, "num_inference_steps": steps},
            }
            began = time.monotonic()
            answer = http.post("/v1/portraits", json=body)
            seconds = time.monotonic() - began
            if answer.status_code != 200:
                return Sent(client, seed, answer.status_code, None, None, seconds)
            [picture] = answer.json()["pictures"]
            image = Image.open(io.BytesIO(base64.b64decode(picture["b64_json"])))
            recorded = json.loads(image.info["consistentid"])["seed"]
            return Sent(client, seed, 200, image.convert("RGB"), recorded, seconds)

        sent: dict[bool, list[Sent]] = {False: [], True: []}
        took, memory = {False: 0.0, True: 0.0}, []
        batches = server.together()
        with ThreadPoolExecutor(clients) as pool:
            for number in range(requests // clients):
                alone = bool(number % 2)
                began = time.monotonic()
                sent[alone] += pool.map(lambda i, n=number, a=alone: ask(i, n // 2 * clients + i, a), range(clients))
                took[alone] += time.monotonic() - began
                memory.append(server.megabytes)
                say(f"round {number + 1}: {took[alone]:.1f} s so far, {memory[-1]:.0f} MB")
        after = server.together()
    return photos, sent, took, memory, [b - a for a, b in zip(batches, after, strict=True)]


def differences(sent: dict[bool, list[Sent]]) -> list[int]:
    """Of each picture of a batch the greatest difference of a value, of 255, from what it is alone."""
    alone = {(one.client, one.seed): one.picture for one in sent[True]}
    pairs = [(one.picture, alone.get((one.client, one.seed))) for one in sent[False]]
    return [int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs if a and b]


def likenesses(photos: list[bytes], sent: list[Sent]) -> tuple[float, float, int]:
    """Mean likeness of pictures to their client's photo and to the others', by the judge; how many show no face."""
    from consistentid.pipeline.pipeline import ConsistentIDPipeline

    studio = ConsistentIDPipeline.from_preset("drawn", device="cpu")

    def embedding(image: Image.Image) -> Any:
        faces = sorted(studio.analyzer.detector.detect(image), key=lambda face: -face.area)
        return studio.judge.embed(image, faces[0].landmarks) if faces else None

    people = [embedding(Image.open(io.BytesIO(photo)).convert("RGB")) for photo in photos]
    found = [(one.client, embedding(one.picture)) for one in sent if one.picture]
    seen = [
        (client, np.array([float(face @ person) for person in people])) for client, face in found if face is not None
    ]
    own = [alike[client] for client, alike in seen]
    others = [np.delete(alike, client).mean() for client, alike in seen]
    return round(float(np.mean(own)), 3), round(float(np.mean(others)), 3), len(found) - len(seen)


@click.command()
@click.option("--requests", default=200, show_default=True)
@click.option("--clients", default=20, show_default=True)
@click.option("--steps", default=25, show_default=True)
def main(requests: int, clients: int, steps: int) -> None:
    """Prints one JSON document; ends with 1 where a picture was lost or is another client's."""
    if requests % (2 * clients):
        raise click.UsageError("--requests must be a multiple of twice --clients")
    server = Server("--queue", str(clients), "--per-client", str(clients), "--timeout", "900")
    try:
        photos, sent, took, memory, (done, batches) = measure(
            server, clients, requests, steps, lambda text: click.echo(text, err=True)
        )
    finally:
        server.close()
    every = [*sent[False], *sent[True]]
    levels = differences(sent)
    own, others, faceless = likenesses(photos, sent[False])
    waits = {alone: sorted(one.seconds for one in each)[len(each) // 2] for alone, each in sent.items()}
    report = {
        "requests": len(every),
        "clients": clients,
        "steps": steps,
        "lost": sum(one.status != 200 for one in every),
        "of another seed": sum(one.status == 200 and one.recorded_seed != one.seed for one in every),
        "crossed": sum(level > 8 for level in levels),  # a picture of somebody else differs by more than 50
        "greatest difference from alone, of 255": max(levels, default=None),
        "likeness to own": own,
        "likeness to others": others,
        "without a face": faceless,
        "requests a batch": round((done - len(sent[True])) / max(1, batches - len(sent[True])), 2),
        "throughput of batches : alone": round(took[True] / took[False], 2),
        "median wait of batches : alone": round(waits[False] / waits[True], 2),
        "seconds, and of these of a processor, until it answers": [round(x, 1) for x in server.answers],
        "... until it is ready": [round(x, 1) for x in server.ready],
        "MB after two rounds": round(memory[min(1, len(memory) - 1)]),
        "MB at the end": round(memory[-1]),
    }
    click.echo(json.dumps(report, indent=1))
    sys.exit(int(bool(report["lost"] or report["of another seed"] or report["crossed"])))


if __name__ == "__main__":
    main()
