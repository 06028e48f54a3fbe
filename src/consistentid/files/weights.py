"""Names of networks that tell one set of weights from another."""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from consistentid.errors import CheckpointError

_WEIGHTS: Final = (".safetensors", ".bin", ".pth", ".pt", ".onnx")


def fingerprint(path: str | os.PathLike[str], name: str | None = None) -> str:
    """``name@`` and the first 12 hexadecimal digits of the weights' SHA-256.

    Args:
        path: a weights file, or a folder that holds some, in folders of its own, too.
        name: by default the file's name without suffix, or the folder's name.

    Raises:
        CheckpointError: there are no weights.
    """
    place = Path(path)
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.suffix in _WEIGHTS)
    if not files:
        raise CheckpointError(f"no weights at {place}; check the path")
    digests = [_digest(file) for file in files]
    # One file keeps its own hash, which can be compared with what the hub shows.
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"{name or (place.stem if place.is_file() else place.resolve().name)}@{whole[:12]}"


def _digest(file: Path) -> str:
    target = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", target.name):  # the hub's cache names large files by their SHA-256
        return target.name
    status = target.stat()
    return _read_digest(target, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_digest(file: Path, size: int, changed: int) -> str:  # noqa: ARG001 - a changed file is read again
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
