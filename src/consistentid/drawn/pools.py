"""The pool of drawn pictures that networks learn from: drawn once, kept as memory-mapped arrays."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from consistentid.drawn.portraits import (
    Caption,
    People,
    Scenes,
    describe,
    draw,
    sample_people,
    sample_scenes,
)
from consistentid.files.output import replacing

BLOCK = 1024  # pictures drawn, and written, at a time


@dataclass(frozen=True)
class PoolSpec:
    """Which pictures are in a pool. Row ``i`` shows person ``i // scenes`` in scene ``i % scenes``."""

    people: int
    scenes: int
    size: int
    split: str = "train"
    first: int = 0  # number of the first person
    seed: int = 0

    def __len__(self) -> int:
        return self.people * self.scenes

    def keys(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(person, scene) of rows."""
        return [(self.first + int(i) // self.scenes, int(i) % self.scenes) for i in rows]

    def tables(self, rows: NDArray[np.int64]) -> tuple[People, Scenes]:
        """People and scenes of rows."""
        keys = self.keys(rows)
        people = sample_people([p for p, _ in keys], split=self.split, seed=self.seed)
        return people, sample_scenes(keys, split=self.split, seed=self.seed)


@dataclass(frozen=True)
class Pool:
    """images (N, H, W, 3) uint8, labels (N, H, W) uint8, landmarks (N, 5, 2) float32 pixels."""

    spec: PoolSpec
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.images)

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


def _draw_block(spec: PoolSpec, folder: Path, block: int) -> None:
    path = folder / f"{block:05d}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)
    rows = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(spec)))
    people, scenes = spec.tables(rows)
    drawn = draw(people, scenes, spec.size)
    with replacing(path) as whole:
        np.savez(whole, images=drawn.pixels(), labels=drawn.labels.numpy(), landmarks=drawn.landmarks.numpy())


def open_pool(spec: PoolSpec, cache: Path, workers: int = 1) -> Pool:
    """The pool, drawn first if it is not in ``cache`` yet; an interrupted drawing goes on where it was."""
    name = f"{spec.split}-{spec.seed}-{spec.first}+{spec.people}x{spec.scenes}-{spec.size}px"
    folder = cache / name
    arrays = {"images": "images.npy", "labels": "labels.npy", "landmarks": "landmarks.npy"}
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        blocks = range(-(-len(spec) // BLOCK))
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                list(
                    tqdm(
                        pool.map(_draw_block, [spec] * len(blocks), [folder] * len(blocks), blocks),
                        total=len(blocks),
                        desc=name,
                    )
                )
        else:
            for block in tqdm(blocks, desc=name):
                _draw_block(spec, folder, block)
        shapes = {"images": (spec.size, spec.size, 3), "labels": (spec.size, spec.size), "landmarks": (5, 2)}
        for key, file in arrays.items():
            dtype = np.float32 if key == "landmarks" else np.uint8
            merged = np.lib.format.open_memmap(folder / file, "w+", dtype, (len(spec), *shapes[key]))
            for block in blocks:
                with np.load(folder / f"{block:05d}.npz") as part:
                    merged[block * BLOCK : (block + 1) * BLOCK] = part[key]
            merged.flush()
        (folder / "complete").touch()
        for block in blocks:
            (folder / f"{block:05d}.npz").unlink(missing_ok=True)
    return Pool(spec, **{k: np.load(folder / f, mmap_mode="r") for k, f in arrays.items()})


def captions(pool: Pool, rows: NDArray[np.int64], seed: int) -> list[Caption]:
    """Captions of rows; another seed words them otherwise."""
    people, scenes = pool.tables(rows)
    return [describe(people, scenes, i, np.random.default_rng((seed, int(row)))) for i, row in enumerate(rows)]


def pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
