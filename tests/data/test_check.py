"""`consistentid dataset check`: every fault is found in one pass and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from consistentid.cli import main
from consistentid.data.check import FAULTS, check_dataset
from consistentid.data.shards import pack_dataset


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["dataset", "check", *map(str, args)])


def labels() -> np.ndarray:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:35, 5:35], mask[10:14, 10:30], mask[18:24, 18:22] = 1, 4, 10
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight sound samples, as scripts for the reference implementation write them, in all its spellings."""
    root = tmp_path / "set"
    for kind in ("resize_IMG", "parsing_mask_IMG", "all_faceID"):
        (root / kind).mkdir(parents=True)
    unit = torch.nn.functional.normalize(torch.ones(1, 512))
    items = []
    for n in range(8):
        Image.new("RGB", (40, 40), (n * 20, 100, 50)).save(root / f"resize_IMG/{n}.jpg")
        Image.fromarray(labels()).save(root / f"parsing_mask_IMG/{n}.png")
        torch.save(unit, root / f"all_faceID/{n}.bin")
        items.append(
            {
                ("resize_IMG", "IMG", "origin_IMG")[n % 3]: f"{n}.jpg",
                "parsing_mask_IMG": f"{n}.png",
                "vqa_llva": "a man",
                ("vqa_llva_more_face_detail", "vqa_llva_facial", "vqa_llva_face_caption")[n % 3]: "He has grey eyes.",
                ("id_embed_file_resize", "id_embed_file_origin")[n % 2]: f"{n}.bin",
            }
        )
    (root / "JSON_all.json").write_text(json.dumps(items))
    return root


def edit(root: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    items = json.loads((root / "JSON_all.json").read_text())
    change(items)
    (root / "JSON_all.json").write_text(json.dumps(items))


def mask(root: Path, change: Callable[[np.ndarray], object], mode: str = "L") -> None:
    values = labels()
    change(values)
    Image.fromarray(values).convert(mode).save(root / "parsing_mask_IMG/3.png")


FAULTY: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "no picture": ("missing", "3.jpg: no such file", lambda r: (r / "resize_IMG/3.jpg").unlink()),
    "no mask": ("missing", "3.png: no such file", lambda r: (r / "parsing_mask_IMG/3.png").unlink()),
    "no embedding": ("missing", "3.bin: no such file", lambda r: (r / "all_faceID/3.bin").unlink()),
    "torn picture": ("broken", "3.jpg: ", lambda r: (r / "resize_IMG/3.jpg").write_bytes(b"\xff\xd8\xff")),
    "torn mask": ("broken", "is no mask", lambda r: (r / "parsing_mask_IMG/3.png").write_bytes(b"\x89PNG")),
    "torn embedding": ("broken", "is no face embedding", lambda r: (r / "all_faceID/3.bin").write_bytes(b"PK\3\4")),
    "a list as embedding": ("broken", "holds list", lambda r: torch.save([1.0], r / "all_faceID/3.bin")),
    "a coloured mask": (
        "broken",
        "a picture of mode RGB",
        lambda r: Image.new("RGB", (40, 40), "red").save(r / "parsing_mask_IMG/3.png"),
    ),
    "a mask of another size": (
        "size",
        "has 20x40 pixels and its picture 40x40",
        lambda r: Image.fromarray(labels()[:, 5:25]).save(r / "parsing_mask_IMG/3.png"),
    ),
    "a label too high": ("labels", "has the value 19", lambda r: mask(r, lambda m: m.fill(19))),
    "nobody": ("nobody", "labels no part", lambda r: mask(r, lambda m: m.fill(0))),
    "too long": (
        "embedding",
        "512 numbers of length 22.63, not 512 of length 1",
        lambda r: torch.save(torch.ones(1, 512), r / "all_faceID/3.bin"),
    ),
    "too few": (
        "embedding",
        "has 4 numbers of length 1",
        lambda r: torch.save(torch.full((1, 4), 0.5), r / "all_faceID/3.bin"),
    ),
    "not a number": (
        "embedding",
        "of length nan",
        lambda r: torch.save(torch.full((1, 512), torch.nan), r / "all_faceID/3.bin"),
    ),
    "no part told": (
        "caption",
        "names none of the visible parts: face, eyes, nose",
        lambda r: edit(r, lambda items: items[3].update(vqa_llva_more_face_detail="He looks nice.")),
    ),
    "a hidden part told": (
        "caption",
        "names none of the visible parts",
        lambda r: edit(r, lambda items: items[3].update(vqa_llva_more_face_detail="He has big ears.")),
    ),
}


def test_sound_sets_have_no_faults(folder: Path) -> None:
    done: list[tuple[int, int]] = []
    report = check_dataset(folder, progress=lambda *p: done.append(p))
    assert report == {"folder": str(folder), "samples": 8, "sound": 8, "faults": [], "counts": {}}
    assert done == [(n, 8) for n in range(1, 9)]
    result = run(folder)
    assert (result.exit_code, result.stdout) == (0, "8 of 8 samples are sound\n")


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_found_and_named(folder: Path, name: str) -> None:
    code, words, spoil = FAULTY[name]
    spoil(folder)
    report = check_dataset(folder)
    assert [(fault["sample"], fault["fault"]) for fault in report["faults"]] == [("3", code)]
    assert words in report["faults"][0]["detail"]
    assert (report["samples"], report["sound"], report["counts"]) == (8, 7, {code: 1})


def test_all_faults_are_found_in_one_pass(folder: Path) -> None:
    def change(items: list[dict[str, str]]) -> None:
        del items[0]["parsing_mask_IMG"]
        items[1] = "a picture"  # type: ignore[call-overload]
        items.append(items[5])

    edit(folder, change)
    (folder / "resize_IMG/6.jpg").unlink()
    torch.save(torch.ones(1, 512), folder / "all_faceID/6.bin")
    result = run(folder, "--json")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"error: {folder}: 4 of 9 samples have faults; correct or remove them\n")
    report = json.loads(result.stdout)
    assert report["counts"] == {"record": 2, "repeated": 1, "missing": 1, "embedding": 1}
    assert {fault["sample"] for fault in report["faults"]} == {"record 0", "record 1", "5", "6"}
    told = run(folder).stdout.splitlines()
    assert told[-1] == "5 of 9 samples are sound"
    assert f"2 record: {FAULTS['record']}" in told


def test_shards_are_checked_too(folder: Path, tmp_path: Path) -> None:
    mask(folder, lambda m: m.fill(0))
    pack_dataset(folder, tmp_path / "shards", samples=3)
    report = check_dataset(tmp_path / "shards")
    assert [(fault["sample"], fault["fault"]) for fault in report["faults"]] == [("3", "nobody")]
    (tmp_path / "shards/shard-000002.tar").unlink()
    assert {fault["sample"] for fault in check_dataset(tmp_path / "shards")["faults"]} == {"3", "6", "7"}


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "is no data set" in result.stderr
    assert result.stderr.count("\n") == 1
