"""What the tests of the service share."""

from __future__ import annotations

import time
from pathlib import Path

from fastapi.testclient import TestClient

ADA = Path(__file__).parents[2] / "examples/portraits/ada.png"
LOCAL = "http://127.0.0.1"


def until_ready(client: TestClient) -> None:
    for _ in range(600):
        if (answer := client.get("/ready")).status_code == 200:
            return
        assert answer.json()["state"] == "loading", answer.text
        time.sleep(0.1)
    raise AssertionError(answer.text)
