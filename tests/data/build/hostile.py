"""Folders with good pictures in odd clothes among files that are no good."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from consistentid.drawn.dataset import Drawing, draw_dataset


def photos(folder: Path, people: int, scenes: int, size: int = 96) -> list[Path]:
    """Draw JPEGs, one folder a person; return their paths."""
    draw_dataset(Drawing(people, scenes, size, "test"), folder, photos=True)
    return sorted((folder / "photos").rglob("*.jpg"))


def _truncated(path: Path, good: Path) -> None:
    content = good.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _bomb(path: Path, _good: Path) -> None:
    """A PNG of a hundred bytes that says it has 2.5 billion pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _deep(path: Path, _good: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)).save(path)


def _animated(path: Path, _good: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _photograph(path: Path, _good: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)).save(path)


BAD: dict[str, Callable[[Path, Path], object]] = {
    "truncated{}.jpg": _truncated,
    "renamed{}.jpg": lambda path, good: path.write_text("Dear Ada,\n" * 20),
    "empty{}.png": lambda path, good: path.write_bytes(b""),
    "bomb{}.png": _bomb,
    "sixteen-bits{}.png": _deep,
    "moving{}.gif": _animated,
    "photograph{}.png": _photograph,
    "speck{}.png": lambda path, good: Image.new("RGB", (8, 8)).save(path),
    "nirgends-ü{}.jpg": lambda path, good: path.symlink_to("nowhere.jpg"),
    "itself{}.jpg": lambda path, good: path.symlink_to(path.name),
    "around{}": lambda path, good: path.symlink_to("."),
    "pipe{}.jpg": lambda path, good: os.mkfifo(path),
    "bytes-{}-\udcff.jpg": lambda path, good: path.write_bytes(bytes(range(256))),
    "locked{}.jpg": lambda path, good: (shutil.copy(good, path), path.chmod(0)),
}
"""Name of a file that is no good -> what makes it, given a good one."""

ODD: dict[str, Callable[[Path, Path], object]] = {
    "Zoë 山田 {}.jpg": lambda path, good: shutil.copy(good, path),
    "{}.really.a.jpg.png": lambda path, good: shutil.copy(good, path),
    "animated-{}.gif": lambda path, good: _still_and_moving(path, good),
    "transparent-{}.PNG": lambda path, good: Image.open(good).convert("RGBA").save(path),
    "deep-{}.tiff": lambda path, good: Image.open(good).save(path),
    "b\udce9atrice {}.jpg": lambda path, good: shutil.copy(good, path),
    "x" * 180 + "{}.jpg": lambda path, good: shutil.copy(good, path),
}
"""Name of a picture that is good though it does not look it -> what makes it."""


def _still_and_moving(path: Path, good: Path) -> None:
    first = Image.open(good).convert("RGB")
    first.save(path, format="PNG", save_all=True, append_images=[Image.new("RGB", first.size)])


def fill(folder: Path, good: Sequence[Path], bad: int) -> tuple[set[str], set[str]]:
    """Fill a folder with pictures, every third in odd clothes, and with bad files.

    Returns:
        Paths in the folder of the good ones and of the bad ones.
    """
    odd, kinds = list(ODD.items()), list(BAD.items())
    if os.geteuid() == 0:  # who may read everything
        kinds = [kind for kind in kinds if not kind[0].startswith("locked")]
    goods, bads = set(), set()
    for number, picture in enumerate(good):
        person = folder / picture.parent.name
        person.mkdir(parents=True, exist_ok=True)
        name, make = odd[number // 3 % len(odd)] if number % 3 == 0 else ("{}.jpg", shutil.copy)
        path = person / name.format(number)
        make(path, picture) if number % 3 == 0 else shutil.copy(picture, path)
        goods.add(f"{picture.parent.name}/{path.name}")
    for number in range(bad):
        picture = good[number % len(good)]
        name, spoil = kinds[number % len(kinds)]
        path = folder / picture.parent.name / name.format(f"-{number}")
        spoil(path, picture)
        bads.add(f"{picture.parent.name}/{path.name}")
    return goods, bads
