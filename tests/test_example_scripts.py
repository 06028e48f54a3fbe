"""The scripts of `examples/`, run as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_from_raw_photos_to_portraits_without_a_step_by_hand(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    line = ["bash", EXAMPLES / "train_on_photos.sh", tmp_path, "--set", "adapter.schedule.steps=4"]
    subprocess.run(line, check=True, env=environment)
    assert len(list((tmp_path / "drawn/photos").rglob("*.jpg"))) == 32
    assert json.loads((tmp_path / "run/checkpoint-4/training.json").read_text())["step"] == 4
    assert len(list((tmp_path / "portraits").glob("*.png"))) == 5  # four portraits and their sheet
