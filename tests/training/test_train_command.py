"""`consistentid train` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from PIL import Image

import tiny
from consistentid.cli import main
from consistentid.files.weights import fingerprint
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.training.trainer import NOTE, claimed_run


def run(*arguments: object) -> Result:
    AcceleratorState._reset_state(reset_partial_state=True)
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A training of two steps as it is typed; the run's folder is the last word."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["--set", "adapter.schedule.steps=2", "--init", "preset", "--device", "cpu", "--json"]
    return [micro.recipe(folder), *settings, "--out", folder / "run"]


@pytest.fixture(scope="module")
def trained(line: list[Any]) -> Result:
    return run(*line)


def test_train(trained: Result, line: list[Any]) -> None:
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout) == {"run": str(line[-1]), "step": 2, "finished": True}
    assert "saved" in trained.stderr
    assert (line[-1] / "model.safetensors").exists()
    assert "has all its 2 steps already" in run(*line).stderr


@pytest.mark.slow
def test_a_checkpoint_is_a_preset_to_draw_with(trained: Result, line: list[Any], tmp_path: Path) -> None:
    checkpoint = line[-1] / "checkpoint-2"
    tiny.portrait().save(tmp_path / "ada.png")
    words = [
        "generate",
        tmp_path / "ada.png",
        "--prompt",
        "a woman",
        "--num",
        1,
        "--seed",
        3,
        "--no-watermark",
        "--json",
    ]
    drawn = CliRunner().invoke(main, [*map(str, words), "--preset", str(checkpoint), "--out", str(tmp_path / "out")])
    assert drawn.exit_code == 0, drawn.output
    document = json.loads(drawn.stdout)
    assert document["adapter"] == fingerprint(checkpoint)
    [made] = document["pictures"]
    pictures = [np.asarray(Image.open(made["file"]))]
    for preset in (checkpoint, tiny.preset()):
        studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
        pictures.append(np.asarray(studio(studio.identify(tiny.portrait()), "a woman", seed=3).images[0]))
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2]), "two steps of training are seen"


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


@pytest.mark.slow
def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    code = (  # what `claimed_run` does, without the libraries of a training
        "import pathlib, sys, time; from consistentid.files.claims import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), 'training run', {}, note=sys.argv[2]):\n"
        "    print('there', flush=True); time.sleep(600)"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "run"), NOTE]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as first:
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
