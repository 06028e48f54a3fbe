"""Outputs of frozen networks on disk, each under the hash of what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from consistentid.files.output import replacing


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
            with safe_open(self._path(key), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep named tensors.

        Raises:
            InputError: the disk is full, or the folder cannot be written to.
        """
        data = save({name: x.contiguous() for name, x in tensors.items()})
        with replacing(self._path(key)) as path:
            path.write_bytes(data)

    def _path(self, key: str) -> Path:
        digest = hashlib.sha256(json.dumps([self.name, key]).encode()).hexdigest()[:32]
        return self.folder / digest[:2] / f"{digest[2:]}.safetensors"


def weights_digest(*modules: nn.Module) -> str:
    """16 hexadecimal digits that tell one set of weights from another, whatever file they came from."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
