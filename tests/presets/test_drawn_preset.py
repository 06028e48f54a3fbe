"""The preset that ships: its real weights, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from click.testing import CliRunner, Result
from PIL import Image

from consistentid.cli import main
from consistentid.files.output import read_record
from consistentid.presets.read import load_preset
from consistentid.training.drawn.package import LIMIT

ROOT = Path(__file__).parents[2]
PORTRAITS = sorted((ROOT / "examples/portraits").glob("*.png"))
ADA = ROOT / "examples/portraits/ada.png"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(x) for x in arguments])


def refused(result: Result) -> str:
    """The one line that a refusal prints."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_all_weights_together_are_small_enough_to_ship() -> None:
    files = [path for path in (ROOT / "src/consistentid/weights/drawn").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT


def test_generate(tmp_path: Path) -> None:
    result = run(
        "generate", ADA, "--prompt", "a woman in a red hat on a beach",
        "--num", "2", "--seed", "3", "--steps", "8", "--out", tmp_path, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert [item["seed"] for item in summary["pictures"]] == [3, 4]
    for item in summary["pictures"]:
        record = read_record(item["file"])
        assert record["ai_generated"] is True
        assert record["seed"] == item["seed"]
        assert item["likeness"] is None or -1 <= item["likeness"] <= 1
        assert Image.open(item["file"]).size == (128, 128)
    assert Path(summary["sheet"]).exists()


def test_the_reference_changes_the_picture(tmp_path: Path) -> None:
    pictures = []
    for name in ("ada", "tom"):
        result = run(
            "generate", ROOT / f"examples/portraits/{name}.png", "--prompt", "a person on a beach", "--num", "1",
            "--seed", "3", "--steps", "8", "--out", tmp_path / name, "--json",
        )  # fmt: skip
        pictures.append(np.asarray(Image.open(json.loads(result.stdout)["pictures"][0]["file"]), np.float32))
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


@pytest.mark.parametrize(
    "scheduler", ["dpm++", *(pytest.param(name, marks=pytest.mark.slow) for name in ("euler", "unipc"))]
)
def test_a_person_is_put_into_the_picture_of_another(scheduler: str, tmp_path: Path) -> None:
    tom = ROOT / "examples/portraits/tom.png"
    with Image.open(tom) as picture:
        party = picture.convert("RGB")
    mask = Image.new("L", party.size, 0)
    mask.paste(255, (party.width // 4, party.height // 8, 3 * party.width // 4, 3 * party.height // 4))
    mask.save(tmp_path / "mask.png")
    result = run(
        "generate", ADA, "--prompt", "a woman", "--image", tom, "--mask", tmp_path / "mask.png", "--num", "1",
        "--steps", "6", "--scheduler", scheduler, "--strength", "1", "--seed", "3", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    painted = np.asarray(Image.open(json.loads(result.stdout)["pictures"][0]["file"]), int)
    change = np.abs(painted - np.asarray(party, int)).sum(-1)
    outside = np.asarray(mask) == 0
    assert not change[outside].any()
    assert change[~outside].mean() > 10
    assert painted[~outside].std() > 20


@pytest.mark.parametrize(
    "portrait",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if number else [])
        for number, path in enumerate(PORTRAITS)
    ],
)
def test_identify_every_example(portrait: Path, tmp_path: Path) -> None:
    result = run("identify", portrait, "--out", tmp_path / "who.safetensors", "--show", tmp_path / "seen.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "who.safetensors").stat().st_size < 1_000_000
    assert Image.open(tmp_path / "seen.png").size[0] >= 256


def test_a_photograph_is_refused_with_the_presets_that_take_it(tmp_path: Path) -> None:
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    result = run("generate", tmp_path / "astronaut.png", "--prompt", "a woman", "--out", tmp_path / "out")
    message = refused(result)
    assert "astronaut.png" in message
    assert "photograph" in message
    assert "sd15" in message
    assert not (tmp_path / "out").exists()


def test_two_faces_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    both = Image.new("RGB", (512, 256))
    for number, path in enumerate((ADA, ROOT / "examples/portraits/tom.png")):
        both.paste(Image.open(path), (256 * number, 0))
    both.save(tmp_path / "both.png")
    message = refused(run("identify", tmp_path / "both.png", "--out", tmp_path / "who.safetensors"))
    assert "both.png" in message
    assert "2 faces" in message
    assert not (tmp_path / "who.safetensors").exists()
    chosen = run("identify", tmp_path / "both.png", "--face-index", "1", "--out", tmp_path / "who.safetensors")
    assert chosen.exit_code == 0, chosen.output


def test_a_picture_without_a_face_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (128, 128), (90, 140, 200)).save(tmp_path / "sky.png")
    message = refused(run("identify", tmp_path / "sky.png", "--out", tmp_path / "who.safetensors"))
    assert "no face" in message
    assert "sky.png" in message


def test_doctor_finds_everything_in_the_package() -> None:
    result = run("doctor", "--preset", "drawn", "--json")
    assert result.exit_code == 0, result.output


def test_the_judge_is_not_the_recogniser() -> None:
    preset = load_preset("drawn")
    assert preset.judge is not None
    assert preset.judge.path != preset.recogniser.path
