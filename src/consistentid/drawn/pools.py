"""The pool of drawn pictures that networks learn from: drawn once, kept as memory-mapped arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from consistentid.drawn.portraits import (
    SPLITS,
    Caption,
    People,
    Scenes,
    describe,
    draw,
    sample_people,
    sample_scenes,
)
from consistentid.files.config import Between, OneOf, check
from consistentid.files.workers import run_in_processes
from consistentid.files.writing import replacing

BLOCK = 1024  # pictures drawn, and written, at a time

_ARRAYS = {"images": "images.npy", "labels": "labels.npy", "landmarks": "landmarks.npy"}


@dataclass(frozen=True)
class PoolSpec:
    """Which pictures are in a pool. Row ``i`` shows person ``i // scenes`` in scene ``i % scenes``."""

    people: Annotated[int, Between(1)]
    scenes: Annotated[int, Between(1)]
    size: Annotated[int, Between(16, 2048)]
    split: Annotated[str, OneOf(tuple(SPLITS))] = "train"
    first: Annotated[int, Between(0)] = 0  # number of the first person
    seed: Annotated[int, Between(0)] = 0

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        return self.people * self.scenes

    @property
    def name(self) -> str:
        """Tells these pictures from all others, also from those that another version of this program draws."""
        numbers = f"{self.seed}-{self.first}+{self.people}x{self.scenes}"
        return f"{self.split}-{numbers}-{self.size}px-{drawing_digest()}"

    def keys(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(person, scene) of rows."""
        return [(self.first + int(i) // self.scenes, int(i) % self.scenes) for i in rows]

    def tables(self, rows: NDArray[np.int64]) -> tuple[People, Scenes]:
        """People and scenes of rows."""
        keys = self.keys(rows)
        people = sample_people([p for p, _ in keys], split=self.split, seed=self.seed)
        return people, sample_scenes(keys, split=self.split, seed=self.seed)


@lru_cache(maxsize=1)
def drawing_digest() -> str:
    """8 hexadecimal digits that follow from how portraits are drawn: of some small ones, their labels and captions."""
    keys = [(person, scene) for person in range(16) for scene in range(4)]
    people, scenes = sample_people([person for person, _ in keys], split="train"), sample_scenes(keys, split="train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bit of a number may depend on how many share the work
    drawn = draw(people, scenes, 32)
    torch.set_num_threads(threads)
    said = [describe(people, scenes, i, np.random.default_rng(i)) for i in range(len(keys))]
    digest = sha256(drawn.pixels().tobytes() + drawn.labels.numpy().tobytes() + repr(said).encode())
    return digest.hexdigest()[:8]


@dataclass(frozen=True)
class Pool:
    """images (N, H, W, 3) uint8, labels (N, H, W) uint8, landmarks (N, 5, 2) float32 pixels."""

    spec: PoolSpec
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    folder: Path | None = None  # where they are kept

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> Any:  # a worker process opens the files anew, instead of being sent all pictures
        if self.folder:
            return (_opened, (self.spec, self.folder))
        return (Pool, (self.spec, self.images, self.labels, self.landmarks))

    @property
    def name(self) -> str:
        """See `PoolSpec.name`."""
        return self.spec.name

    @cached_property
    def _people(self) -> People:
        first = self.spec.first
        return sample_people(range(first, first + self.spec.people), split=self.spec.split, seed=self.spec.seed)

    @cached_property
    def _scenes(self) -> Scenes:
        return sample_scenes(self.spec.keys(np.arange(len(self))), split=self.spec.split, seed=self.spec.seed)

    def tables(self, rows: NDArray[np.int64]) -> tuple[People, Scenes]:
        """People and scenes of rows."""
        return self._people[rows // self.spec.scenes], self._scenes[rows]


def _drawer(spec: PoolSpec, folder: Path, _number: int) -> tuple[PoolSpec, Path]:
    return spec, folder


def _draw_block(drawer: tuple[PoolSpec, Path], block: int) -> None:
    spec, folder = drawer
    path = folder / f"{block:05d}.npz"
    if path.exists():
        return
    rows = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(spec)))
    people, scenes = spec.tables(rows)
    drawn = draw(people, scenes, spec.size)
    with replacing(path) as whole:
        np.savez(whole, images=drawn.pixels(), labels=drawn.labels.numpy(), landmarks=drawn.landmarks.numpy())


def open_pool(spec: PoolSpec, cache: Path, workers: int = 1) -> Pool:
    """The pool, drawn first if it is not in ``cache`` yet; an interrupted drawing goes on where it was."""
    name = spec.name
    folder = cache / name
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        blocks = range(-(-len(spec) // BLOCK))
        with tqdm(total=len(blocks), desc=name) as bar:
            run_in_processes(partial(_drawer, spec, folder), _draw_block, blocks, workers, lambda *_: bar.update())
        shapes = {"images": (spec.size, spec.size, 3), "labels": (spec.size, spec.size), "landmarks": (5, 2)}
        for key, file in _ARRAYS.items():
            dtype = np.float32 if key == "landmarks" else np.uint8
            merged = np.lib.format.open_memmap(folder / file, "w+", dtype, (len(spec), *shapes[key]))
            for block in blocks:
                with np.load(folder / f"{block:05d}.npz") as part:
                    merged[block * BLOCK : (block + 1) * BLOCK] = part[key]
            merged.flush()  # to the disk: what is complete stays so when the power goes
        (folder / "complete").touch()
        for block in blocks:
            (folder / f"{block:05d}.npz").unlink(missing_ok=True)
    return _opened(spec, folder)


def _opened(spec: PoolSpec, folder: Path) -> Pool:
    arrays = {name: np.load(folder / file, mmap_mode="r") for name, file in _ARRAYS.items()}
    return Pool(spec, **arrays, folder=folder)


def captions(pool: Pool, rows: NDArray[np.int64], seed: int) -> list[Caption]:
    """Captions of rows; another seed words them otherwise."""
    people, scenes = pool.tables(rows)
    return [describe(people, scenes, i, np.random.default_rng((seed, int(row)))) for i, row in enumerate(rows)]


def pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
