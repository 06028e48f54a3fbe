"""`consistentid train` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import micro
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result

from consistentid.cli import main
from consistentid.training.trainer import claimed_run


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


def test_a_folder_of_somebody_s_own_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "config.json").write_text("mine")
    result = run(micro.recipe(tmp_path), "--out", out, "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert "is not empty, and holds no training run; name a new folder" in result.stderr
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("config.json", "mine")]


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from consistentid.training.trainer import claimed_run\n"
        "with claimed_run(pathlib.Path(sys.argv[1])): print('there', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout
            assert first.stdout.readline() == b"there\n"
            result = run(micro.recipe(tmp_path), "--out", tmp_path / "run", "--device", "cpu")
        finally:
            first.kill()
    assert result.exit_code == 2, result.output
    assert "run: another process is writing to it; wait until that has ended" in result.stderr


def test_a_run_that_an_older_version_began_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "log.jsonl").touch()
    with claimed_run(tmp_path):
        pass
    assert (tmp_path / "run.json").exists()
