"""Files of weights: names that tell one set from another, and whether a network got all of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consistentid.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN: Final = 20
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
    files = (
        [place]
        if place.is_file()
        else sorted(file for file in place.rglob("*") if file.suffix in _WEIGHTS and file.is_file())
    )
    if not files:
        raise CheckpointError(f"no weights at {place}; check the path")
    digests = [_digest(file) for file in files]
    # One file keeps its own hash, which can be compared with what the hub shows.
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return f"{name or (place.stem if place.is_file() else place.resolve().name)}@{whole[:12]}"


def same_network(found: str, wanted: str) -> bool:
    """Whether two names of `fingerprint` mean one network: by their hashes where both have one, else by name."""
    (name, _, digest), (wanted_name, _, wanted_digest) = found.partition("@"), wanted.partition("@")
    return digest == wanted_digest if digest and wanted_digest else name == wanted_name


def content_digest(path: str | os.PathLike[str], pattern: str = "*") -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file, or of a folder's files and their names in it.

    Other than in `fingerprint` everything counts: weights, configurations, vocabularies; of a folder all files whose
    names fit the pattern.
    """
    place = Path(path)
    if place.is_file():
        return _digest(place)[:12]
    files = sorted(file for file in place.rglob(pattern) if file.is_file() and not file.name.startswith("."))
    lines = [f"{file.relative_to(place).as_posix()} {_digest(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def check_complete(missing: Iterable[str], source: str) -> None:
    """Refuses a network that other libraries would fill up with random weights.

    Args:
        missing: names of weights that its file lacks.
        source: name for messages.

    Raises:
        CheckpointError: there are such names.
    """
    if names := sorted(missing, key=natural):
        raise CheckpointError(f"{source} lacks the weights {listed(names)}; get its files again")


def check_finite(tensors: Iterable[tuple[str, Tensor]], source: str) -> None:
    """Refuses weights of which some are NaN or infinite: one of them makes every picture black.

    Args:
        tensors: names and weights.
        source: name for messages.

    Raises:
        CheckpointError: there are such weights.
    """
    # the extremes of a tensor are NaN where anything in it is, and thirty times as fast to find as a map of it
    known = ((name, x) for name, x in tensors if x.is_floating_point() and x.numel() and not x.is_meta)
    if wrong := [name for name, x in known if not all(extreme.isfinite() for extreme in x.aminmax())]:
        raise CheckpointError(f"{source} holds values that are not finite in {listed(wrong)}; get its files again")


def check_network(network: nn.Module, missing: Iterable[str], source: str) -> None:
    """Refuses a loaded network whose file lacks weights, or holds some that are no numbers.

    Args:
        network: as it was loaded.
        missing: names of weights that its file lacks.
        source: name for messages.

    Raises:
        CheckpointError: it is such a network.
    """
    check_complete(missing, source)
    check_finite(network.state_dict().items(), source)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key by which layer 9 comes before layer 10."""
    return [(int(x), "") if x.isdigit() else (-1, x) for x in re.split(r"(\d+)", name)]


def listed(names: Iterable[str]) -> str:
    """Names for a message: the first twenty, and how many more."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


def _digest(file: Path) -> str:
    target = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", target.name):  # the hub's cache names large files by their SHA-256
        return target.name
    status = target.stat()
    return _read_digest(target, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_digest(file: Path, size: int, changed: int) -> str:  # noqa: ARG001 - a changed file is read again
    return sha256(file)


def sha256(file: Path) -> str:
    """Of a file's content, whatever its name says: 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Versions:
    """Which parameters networks have, and how often each was written to: equal while nobody trained or loaded any.

    Kept beside what was computed with the networks, it tells whether that still holds.
    """

    def __init__(self, parameters: Iterable[Tensor] = ()) -> None:
        self._state = [(parameter, parameter._version) for parameter in parameters]

    @classmethod
    def of(cls, *networks: nn.Module) -> Versions:
        """Those of these networks, as they are now."""
        return cls(parameter for network in networks for parameter in network.parameters())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Versions):
            return NotImplemented
        return len(self._state) == len(other._state) and all(
            x is y and m == n for (x, m), (y, n) in zip(self._state, other._state, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # parameters change
