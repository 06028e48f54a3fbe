"""A short form of `benchmarks/load.py`: many clients at once on a service that runs as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/load.py"


@pytest.mark.slow
def test_no_request_is_lost_or_answered_with_another_client_s_picture() -> None:
    line = [sys.executable, str(SCRIPT), "--requests", "32", "--clients", "4", "--steps", "3"]
    result = subprocess.run(line, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert (report["requests"], report["lost"], report["of another seed"], report["crossed"]) == (32, 0, 0, 0)
    assert report["greatest difference from alone, of 255"] <= 2
    assert report["requests a batch"] > 1
    assert report["MB at the end"] < report["MB after two rounds"] + 100
