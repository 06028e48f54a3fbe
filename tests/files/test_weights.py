import hashlib
import os
from pathlib import Path

import pytest

from consistentid.errors import CheckpointError
from consistentid.files.weights import fingerprint


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_file_and_folder(tmp_path: Path) -> None:
    weights = tmp_path / "net" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    (weights.parent / "config.json").write_text("{}")
    assert fingerprint(weights) == f"model@{sha(b'one')[:12]}"
    assert fingerprint(weights.parent) == f"net@{sha(b'one')[:12]}"
    assert fingerprint(weights, "clip") == f"clip@{sha(b'one')[:12]}"


def test_changed_and_added_weights_change_it(tmp_path: Path) -> None:
    first = tmp_path / "a.onnx"
    first.write_bytes(b"one")
    before = fingerprint(tmp_path, "n")
    first.write_bytes(b"two")
    os.utime(first, ns=(1, 1))
    changed = fingerprint(tmp_path, "n")
    (tmp_path / "b.onnx").write_bytes(b"three")
    assert len({before, changed, fingerprint(tmp_path, "n")}) == 3


def test_hub_cache_is_not_read_again(tmp_path: Path) -> None:
    blob = tmp_path / sha(b"what the hub says")
    blob.write_bytes(b"")
    link = tmp_path / "model.bin"
    link.symlink_to(blob)
    assert fingerprint(link) == f"model@{sha(b'what the hub says')[:12]}"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights at"):
        fingerprint(tmp_path)
