"""What frozen networks gave, on disk: whole, or made again."""

from __future__ import annotations

from pathlib import Path

import torch

from consistentid.training.cache import Cache

ENTRY = {"output": torch.arange(64.0).reshape(8, 8).half(), "seen": torch.ones(3, dtype=torch.bool)}


def kept(folder: Path) -> Path:
    Cache(folder, "vae").write("a", ENTRY)
    [file] = folder.rglob("*.safetensors")
    return file


def test_what_is_written_is_read_under_its_key_and_name_alone(tmp_path: Path) -> None:
    kept(tmp_path)
    found = Cache(tmp_path, "vae").read("a")
    assert found is not None
    assert found.keys() == ENTRY.keys()
    assert all(torch.equal(found[name], ENTRY[name]) for name in ENTRY)
    assert Cache(tmp_path, "vae").read("b") is None
    assert Cache(tmp_path, "another vae").read("a") is None


def test_an_entry_of_which_a_part_is_zeros_is_made_again(tmp_path: Path) -> None:
    file = kept(tmp_path)
    data = file.read_bytes()
    for lost in (1, 32, len(data) - 16, len(data)):
        file.write_bytes(data[: len(data) - lost] + bytes(lost))
        assert (Cache(tmp_path, "vae").read("a") is None) == (data[-lost:] != bytes(lost))
    file.write_bytes(data[:-5])
    assert Cache(tmp_path, "vae").read("a") is None
