"""Thousands of requests that schemathesis makes of the OpenAPI document: never 5xx, nothing on disk, still answering.

    python benchmarks/malformed_requests.py                      # 10,000 requests
    python benchmarks/malformed_requests.py --requests 500 --seed 3

Starts `consistentid serve` on a free port with an empty folder for temporary files, and lets schemathesis send what the
document allows and what it does not, in rounds of different seeds, until there were so many. Each answer must be below
500, of a status and form that the document names. The preset samples one step, as what is sampled is not the question.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from load import Server, client_of, photos_of_people

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
PRESET = "extends: drawn\nsettings: {steps: 1}\n"
OPTIONS = ("--no-page", "--max-steps", "2", "--max-pictures", "2", "--max-side", "256")


def round_of(url: str, examples: int, seed: int) -> tuple[int, str]:
    """One run of schemathesis: its exit status, 0 where all was well, and what it says."""
    line = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    line += [f"{url}/openapi.json", "--checks", CHECKS, "--max-examples", str(examples), "--seed", str(seed)]
    line += ["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--generation-database", "none"]
    line += ["--suppress-health-check", "all"]  # such as that a busy machine is slow to make them up
    environment = {**os.environ, "NO_PROXY": "*", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(line, capture_output=True, text=True, env=environment)
    return result.returncode, result.stdout + result.stderr


def statuses(url: str) -> Counter[str]:
    """How many requests were answered with which status, as the service counts them."""
    with client_of(url) as http:
        text = http.get("/metrics").text
    found: Counter[str] = Counter()
    for labels, count in re.findall(r"^consistentid_http_requests_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        [status] = re.findall(r'status="(\d+)"', labels)
        found[status] += int(float(count))
    return found


def answers(url: str) -> bool:
    """Whether somebody who wants a picture gets it."""
    [photo] = photos_of_people(1)
    with client_of(url) as http:
        identity = http.post("/v1/identities", files={"photo": photo}).json()["identity"]
        body = {"identity": identity, "request": {"prompt": "a woman", "seed": 1}}
        return http.post("/v1/portraits", json=body).status_code == 200


@click.command()
@click.option("--requests", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="Of the first round.")
def main(requests: int, seed: int) -> None:
    """Print what came of it as JSON; the exit status is 1 if anything was wrong, which is then said on stderr."""
    with TemporaryDirectory() as folder:
        preset, temporary = Path(folder, "preset.yaml"), Path(folder, "tmp")
        preset.write_text(PRESET)
        temporary.mkdir()
        server = Server("--preset", str(preset), *OPTIONS, TMPDIR=str(temporary))
        try:
            with client_of(server.url) as http:
                document = http.get("/openapi.json").json()
            operations = sum(len(path) for path in document["paths"].values())
            before, rounds, said = statuses(server.url), 0, []
            while (sent := (statuses(server.url) - before).total()) < requests:
                examples = min(100, math.ceil((requests - sent) / operations))
                failed, words = round_of(server.url, examples, seed + rounds)
                rounds += 1
                if failed:
                    said.append(words)
                if (statuses(server.url) - before).total() == sent:
                    raise SystemExit(f"schemathesis sends nothing:\n{words}")
            found = statuses(server.url) - before
            report = {
                "requests": found.total(),
                "rounds": rounds,
                "by status": dict(sorted(found.items())),
                "5xx": sum(count for status, count in found.items() if status.startswith("5")),
                "rounds with an answer that the document does not name": len(said),
                "files left on disk": sorted(str(x.relative_to(folder)) for x in temporary.rglob("*") if x.is_file()),
                "still answers": answers(server.url),
            }
        finally:
            server.close()
    click.echo(json.dumps(report, indent=1))
    for words in said:
        click.echo(words, err=True)
    if said or report["5xx"] or report["files left on disk"] or not report["still answers"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
