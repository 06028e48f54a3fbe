"""`consistentid train` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import micro
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result

from consistentid.cli import main


def run(*arguments: object) -> Result:
    AcceleratorState._reset_state(reset_partial_state=True)
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_train(tmp_path: Path) -> None:
    line = (
        micro.recipe(tmp_path), "--set", "adapter.schedule.steps=2", "--init", "preset",
        "--out", tmp_path / "run", "--device", "cpu", "--json",
    )  # fmt: skip
    result = run(*line)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": str(tmp_path / "run"), "step": 2, "finished": True}
    assert "saved" in result.stderr
    assert (tmp_path / "run/model.safetensors").exists()
    assert "has all its 2 steps already" in run(*line).stderr


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    recipe = micro.recipe(tmp_path)
    for options, message in (
        (("--set", "adapter.lr=1"), "unknown options lr; known are schedule"),
        (("--data", tmp_path / "none"), "none"),
        (("--init", tmp_path / "none.bin"), "no weights at"),
    ):
        result = run(recipe, *options, "--out", tmp_path / "run", "--device", "cpu")
        assert result.exit_code == 2, result.output
        [line] = [x for x in result.stderr.splitlines() if x.startswith("error: ")]
        assert message in line
    assert run(tmp_path / "none.yaml", "--out", tmp_path / "run").exit_code == 2
