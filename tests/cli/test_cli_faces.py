"""What `identify` and `generate` say of the faces in photos, and how one is chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tiny
from consistentid.adapter.identity import Identity
from consistentid.cli import main


@pytest.fixture(scope="module")
def preset() -> Path:
    return tiny.preset()


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], prog_name="consistentid")


def two_people(path: Path) -> Path:
    tiny.draw((40, 60), (190, 58), size=(256, 128))[0].save(path)
    return path


def test_quality_size_and_warnings_are_told(preset: Path, tmp_path: Path) -> None:
    tiny.portrait().save(tmp_path / "ada.png")
    tiny.portrait().resize((64, 64)).save(tmp_path / "small.png")
    photos = [tmp_path / "ada.png", tmp_path / "small.png"]
    result = run("identify", *photos, "--preset", preset, "--out", tmp_path / "who.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    large, small = json.loads(result.stdout)["photos"]
    assert (large["photo"], large["faces"], large["face_index"]) == (str(photos[0]), 1, 0)
    assert large["face_size"] == pytest.approx(2 * small["face_size"], abs=4)
    assert large["quality"] > small["quality"] > 0
    assert any("pixels" in warning for warning in small["warnings"])
    assert f"note: {photos[1]}: the face has only" in result.stderr
    plain = run("identify", photos[0], "--preset", preset, "--out", tmp_path / "ada.safetensors")
    assert f"{photos[0]}  face of {large['face_size']} pixels, quality 0." in plain.stdout


def test_a_face_is_chosen_with_the_photo(preset: Path, tmp_path: Path) -> None:
    pair = two_people(tmp_path / "pair.png")
    refused = run("identify", pair, "--preset", preset, "--out", tmp_path / "none.safetensors")
    assert refused.exit_code == 2
    assert f"2 faces found in {pair}; choose one by its index" in refused.stderr
    assert f"as in {pair}#0" in refused.stderr
    people = []
    for number in (0, 1):
        out = tmp_path / f"{number}.safetensors"
        result = run("identify", f"{pair}#{number}", "--preset", preset, "--out", out)
        assert result.exit_code == 0, result.stderr
        people.append(Identity.load(out))
    assert not np.array_equal(people[0].part_features, people[1].part_features)
    by_option = tmp_path / "option.safetensors"
    assert run("identify", pair, "--face-index", 1, "--preset", preset, "--out", by_option).exit_code == 0
    np.testing.assert_array_equal(Identity.load(by_option).embedding, people[1].embedding)


def test_a_file_whose_name_looks_like_a_choice_is_that_file(preset: Path, tmp_path: Path) -> None:
    tiny.portrait().save(tmp_path / "ada#1.png")
    shutil.copy(tmp_path / "ada#1.png", tmp_path / "ada.png#1")
    for name in ("ada#1.png", "ada.png#1"):
        result = run("identify", tmp_path / name, "--preset", preset, "--out", tmp_path / f"{name}.safetensors")
        assert result.exit_code == 0, result.stderr


def test_bad_photos_can_be_left_out(preset: Path, tmp_path: Path) -> None:
    tiny.portrait().save(tmp_path / "ada.png")
    Image.new("RGB", (128, 128), tiny.COLOURS[0]).save(tmp_path / "sky.png")
    photos = [tmp_path / "ada.png", tmp_path / "sky.png"]
    assert run("identify", *photos, "--preset", preset, "--out", tmp_path / "no.safetensors").exit_code == 2
    result = run("identify", *photos, "--skip-bad", "--preset", preset, "--out", tmp_path / "who.safetensors", "--json")
    assert result.exit_code == 0, result.stderr
    assert [photo["photo"] for photo in json.loads(result.stdout)["photos"]] == [str(photos[0])]
    assert f"note: left out: no face found in {photos[1]}" in result.stderr


def test_what_the_adapter_sees_is_shown(preset: Path, tmp_path: Path) -> None:
    """A full-length drawing: beside the photo stands the square of which the face is a quarter, and its parts."""
    tall = Image.new("RGB", (128, 512), tiny.COLOURS[0])
    tall.paste(tiny.portrait(), (0, 20))
    tall.save(tmp_path / "tall.png")
    seen = tmp_path / "seen.png"
    result = run(
        "generate", tmp_path / "tall.png", "--prompt", "a woman", "--preset", preset, "--num", 1, "--steps", 1,
        "--no-sheet", "--out", tmp_path / "out", "--show", seen,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    shown = np.asarray(Image.open(seen).convert("RGB"), int)
    skin = np.abs(shown - (0xE8, 0xB4, 0x8C)).max(axis=2) < 12
    assert skin.sum() > 0.12 * 224 * 224, "the face fills the square"
    again = run("generate", tmp_path / "tall.png", "--prompt", "x", "--preset", preset, "--show", seen)
    assert again.exit_code == 2
    assert f"{seen}: is there already" in again.stderr


def test_a_photo_is_refused_before_adapter_and_image_encoder_are_loaded(preset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "preset"
    shutil.copytree(preset, folder)
    for heavy in ("adapter", "image_encoder", "base"):
        shutil.rmtree(folder / heavy)
        (folder / heavy).mkdir()
    Image.new("RGB", (128, 128), tiny.COLOURS[0]).save(tmp_path / "sky.png")
    for args in (("identify", "--out", tmp_path / "who.safetensors"), ("generate", "--prompt", "a woman")):
        result = run(args[0], tmp_path / "sky.png", *args[1:], "--preset", folder)
        assert result.exit_code == 2
        assert "no face found in" in result.stderr
