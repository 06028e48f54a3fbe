"""A short form of `benchmarks/malformed_requests.py`: what schemathesis makes of the OpenAPI document.

It knows the form of requests and not their sense: hardly one of its requests gets past the identity. What does, odd
values in a request that is good otherwise and spoiled files, is in `test_hostile_requests.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/malformed_requests.py"


@pytest.mark.slow
def test_what_the_document_allows_and_what_not_is_answered_below_500() -> None:
    pytest.importorskip("schemathesis")
    line = [sys.executable, str(SCRIPT), "--requests", "200"]
    result = subprocess.run(line, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    report = json.loads(result.stdout)
    assert report["requests"] >= 200
    assert (report["5xx"], report["files left on disk"], report["still answers"]) == (0, [], True)
