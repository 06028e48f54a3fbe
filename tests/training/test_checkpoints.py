"""Checkpoints: damaged ones are known by their sums, whatever the damage looks like to the reader of tensors."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import TrainingError
from consistentid.files.writing import write_whole
from consistentid.training import checkpoints
from consistentid.training.state import DamagedError, read_about, read_tensors

ABOUT = {"config": {"a": 1}}


def saved(run: Path, step: int = 5) -> Path:
    return checkpoints.save(
        run,
        step,
        spec=AdapterSpec(),
        adapter={"image_projection.x": torch.ones(4)},
        base=lambda folder: write_whole(folder / "unet/weights", b"0123"),
        preset="extends: drawn",
        state={"weights/x": torch.randn(10_000)},
        about=ABOUT,
        keep=2,
    )


def test_a_half_that_a_power_cut_zeroed_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    state, about = checkpoints.load(folder, ABOUT)
    assert about["step"] == 5
    file = folder / "state.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(bytes(size - size // 2))
    assert len(load_file(file)["weights/x"]) == len(state["weights/x"])  # whole tensors to their reader
    with pytest.raises(TrainingError, match=r"is damaged \(state\.safetensors is not as it was written\)"):
        checkpoints.load(folder, ABOUT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "holds a list, and no mapping"),
        ('{"step": 5}', "lacks config"),
        ('{"step": "5", "config": {}}', "step='5' is not allowed; give an integer of at least 0"),
        ('{"step": 5, "config": []}', r"config=\[\] is not allowed; give a mapping"),
        ('{"step": 5, "config": {}, "seconds": -1}', "seconds=-1 is not allowed"),
        ('{"step": 5, "config": {}, "sha256": {"config.json": 1}}', "sha256.config.json=1 is not allowed"),
        ('{"step": 5, "config": {}, "sha256": {"../../../../dev/zero": "0"}}', "dev/zero"),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_looked_at(tmp_path: Path, content: str, words: str) -> None:
    folder = saved(tmp_path)
    (folder / "training.json").write_text(content)
    with pytest.raises(TrainingError, match=rf"^{folder}: is damaged \(.*{words}.*; remove it to go on from the one"):
        checkpoints.load(folder, ABOUT)
    if "dev" not in words:
        with pytest.raises(TrainingError, match="is damaged"):
            checkpoints.told(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "base/unet/weights"])
def test_every_file_of_a_checkpoint_is_held_against_its_sum(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(TrainingError, match="is not as it was written"):
        checkpoints.load(folder, ABOUT)
    (folder / name).unlink()
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoints.load(folder, ABOUT)


def test_checkpoints_of_older_versions_have_no_sums(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    about = json.loads((folder / "training.json").read_text())
    del about["sha256"]
    (folder / "training.json").write_text(json.dumps(about))
    assert "weights/x" in checkpoints.load(folder, ABOUT)[0]


@pytest.mark.skipif(os.name == "nt", reason="rights as POSIX has them")
def test_saved_models_are_readable_like_any_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = saved(tmp_path)
        checkpoints.publish(tmp_path, folder, "extends: drawn")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 10
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o644}


def test_folders_that_only_look_like_checkpoints(tmp_path: Path) -> None:
    for step in (5, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-10"
    saved(tmp_path, 11)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-11", "checkpoint-best"}


def test_a_folder_in_the_place_of_tensors_is_damage(tmp_path: Path) -> None:
    for read in (read_tensors, read_about):
        with pytest.raises(DamagedError):
            read(tmp_path)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.safetensors")
