"""Outputs of frozen networks on disk, each under the hash of what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from consistentid.files.writing import replacing
from consistentid.training.state import DamagedError, read_tensors, write_tensors


@dataclass(frozen=True)
class Cache:
    """Named tensors by key, one file each, so that any number of processes may read and write at any time.

    Attributes:
        folder: holds the files.
        name: what the entries were made with; another name is another cache.
    """

    folder: Path
    name: str

    def read(self, key: str) -> dict[str, Tensor] | None:
        """What is kept under a key, or None if there is nothing whole."""
        try:
            return read_tensors(self._path(key))
        except (FileNotFoundError, DamagedError):
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep named tensors.

        Raises:
            InputError: the disk is full, or the folder cannot be written to.
        """
        with replacing(self._path(key)) as path:
            write_tensors(path, tensors)

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(json.dumps([self.name, key]).encode()).hexdigest()[:32]
        return self.folder / digest[:2] / f"{digest[2:]}.safetensors"
