"""The pool of drawn pictures that networks learn from: drawn once, kept as memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from consistentid.drawn.portraits import (
    PART_TRAITS,
    SPLITS,
    WORLD,
    Caption,
    GroupCaption,
    Groups,
    People,
    Scenes,
    describe,
    describe_group,
    draw_groups,
    sample_groups,
    sample_people,
    sample_scenes,
    with_company,
    with_parts_of,
)
from consistentid.drawn.portraits.sampling import generator
from consistentid.drawn.scene_reader import FACTORS, UNSEEN, shown
from consistentid.errors import InputError
from consistentid.files.claims import in_turn
from consistentid.files.config import Between, OneOf, check
from consistentid.files.workers import run_in_processes
from consistentid.files.writing import replacing

BLOCK = 1024  # pictures drawn, and written, at a time


@dataclass(frozen=True)
class PoolSpec:
    """Which pictures are in a pool. Row ``i`` shows person ``i // scenes`` in scene ``i % scenes``.

    Attributes:
        people: different people in the pool.
        scenes: pictures of each, and with `together` above 1 besides those in others' company.
        size: pixels of the height.
        split: of the people.
        first: number of the first person.
        seed: of people and scenes.
        width: pixels; 0 = as high.
        together: people in a picture, 1 to 3; the others are taken from the pool's people.
        exchanged: each picture shows its person with one part of the face of another of the pool's people, see
            `exchanges`.
    """

    people: Annotated[int, Between(1)]
    scenes: Annotated[int, Between(1)]
    size: Annotated[int, Between(16, 2048)]
    split: Annotated[str, OneOf(tuple(SPLITS))] = "train"
    first: Annotated[int, Between(0)] = 0
    seed: Annotated[int, Between(0)] = 0
    width: Annotated[int, Between(0, 4096)] = 0
    together: Annotated[int, Between(1, 3)] = 1
    exchanged: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.exchanged and (self.together > 1 or self.people == 1):
            raise InputError("exchanged parts are those of somebody else, on pictures of one person: give more people")

    def __len__(self) -> int:
        return self.people * self.scenes

    @property
    def name(self) -> str:
        """Names the pictures among those of other specifications and worlds."""
        shape = f"{self.width}x{self.size}px" if self.width not in (0, self.size) else f"{self.size}px"
        company = f"-by{self.together}" if self.together > 1 else "-exchanged" if self.exchanged else ""
        return f"{self.split}-{self.seed}-{self.first}+{self.people}x{self.scenes}-{shape}{company}-world{WORLD}"

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        return self.width or self.size, self.size

    def keys(self, rows: NDArray[np.int64]) -> list[tuple[int, int]]:
        """(person, scene) of rows."""
        return [(self.first + int(i) // self.scenes, int(i) % self.scenes) for i in rows]

    def tables(self, rows: NDArray[np.int64]) -> tuple[People, Scenes]:
        """People and scenes of rows of pictures of one person."""
        keys = self.keys(rows)
        people = self.as_shown(self.everyone([p for p, _ in keys]), rows, self.everyone)
        return people, sample_scenes(keys, split=self.split, seed=self.seed)

    def everyone(self, numbers: Sequence[int]) -> People:
        """The people of these numbers, as they are."""
        return sample_people(numbers, split=self.split, seed=self.seed)

    def as_shown(self, people: People, rows: NDArray[np.int64], everyone: Callable[[Sequence[int]], People]) -> People:
        """The people of rows with the parts that their pictures show; ``everyone`` gives people by number."""
        if not self.exchanged:
            return people
        parts, others = zip(*self.exchanges(rows), strict=True)
        return with_parts_of(people, everyone(others), parts)

    def exchanges(self, rows: NDArray[np.int64]) -> list[tuple[str, int]]:
        """Which part is another's on the pictures of rows, and the number of that person."""
        found = []
        for person, scene in self.keys(rows):
            rng = generator(self.split, self.seed, 13, person, scene)
            other = self.first + (person - self.first + int(rng.integers(1, self.people))) % self.people
            found.append((str(rng.choice(list(PART_TRAITS))), other))
        return found

    def groups(self, rows: NDArray[np.int64]) -> Groups:
        """Who is on the pictures of rows, and in which scenes."""
        if self.together == 1:
            return Groups(*self.tables(rows), 1)
        width, height = self.sides
        return sample_groups(self._members(rows), split=self.split, seed=self.seed, aspect=width / height)

    def members(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the people on the pictures of rows, from left to right: (K, P)."""
        return np.array([members for members, _ in self._members(rows)])

    def _members(self, rows: NDArray[np.int64]) -> list[tuple[tuple[int, ...], int]]:
        among = range(self.first, self.first + self.people)
        return with_company(self.keys(rows), among, self.together, split=self.split, seed=self.seed)


@dataclass(frozen=True)
class Pool:
    """Drawn pictures and what is known of them.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N, H, W) uint8.
        landmarks: (N, 5, 2) float32 pixels; of P > 1 people (N, P, 5, 2), from left to right.
        boxes: (N, 4) float32 pixels; of P > 1 people (N, P, 4).
        owners: (N, H, W) uint8, 0 where nobody is and else 1 + the number of the person; None in pools of one person.
    """

    spec: PoolSpec
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    boxes: NDArray[np.float32]
    owners: NDArray[np.uint8] | None = None
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
        return self.spec.everyone(range(first, first + self.spec.people))

    @cached_property
    def _scenes(self) -> Scenes:
        return sample_scenes(self.spec.keys(np.arange(len(self))), split=self.spec.split, seed=self.spec.seed)

    def tables(self, rows: NDArray[np.int64]) -> tuple[People, Scenes]:
        """People and scenes of rows of a pool of one person a picture."""
        people = self._people[rows // self.spec.scenes]
        shown = self.spec.as_shown(people, rows, lambda numbers: self._people[np.array(numbers) - self.spec.first])
        return shown, self._scenes[rows]


def _drawer(spec: PoolSpec, folder: Path, _number: int) -> tuple[PoolSpec, Path]:
    return spec, folder


def _draw_block(drawer: tuple[PoolSpec, Path], block: int) -> None:
    spec, folder = drawer
    path = folder / f"{block:05d}.npz"
    if path.exists():
        return
    rows = np.arange(block * BLOCK, min((block + 1) * BLOCK, len(spec)))
    drawn = draw_groups(spec.groups(rows), spec.sides)
    arrays: dict[str, Any] = {"images": drawn.pixels()}
    for key, shape in _shapes(spec).items():
        if key not in arrays:
            arrays[key] = getattr(drawn, key).numpy().reshape(len(rows), *shape)
    with replacing(path) as whole:
        np.savez(whole, **arrays)


def _shapes(spec: PoolSpec) -> dict[str, tuple[int, ...]]:
    """The arrays of a pool and the shape of a row of each."""
    width, height = spec.sides
    people = (spec.together,) if spec.together > 1 else ()
    shapes = {
        "images": (height, width, 3),
        "labels": (height, width),
        "landmarks": (*people, 5, 2),
        "boxes": (*people, 4),
    }
    return shapes | ({"owners": (height, width)} if people else {})


def open_pool(spec: PoolSpec, cache: Path, workers: int = 1) -> Pool:
    """The pool, drawn first if it is not in ``cache`` yet; an interrupted drawing goes on where it was."""
    folder = cache / spec.name
    with in_turn(folder):
        _complete(spec, folder, workers)
    return _opened(spec, folder)


def _complete(spec: PoolSpec, folder: Path, workers: int) -> None:
    shapes = _shapes(spec)
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        blocks = range(-(-len(spec) // BLOCK))
        with tqdm(total=len(blocks), desc=folder.name) as bar:
            run_in_processes(partial(_drawer, spec, folder), _draw_block, blocks, workers, lambda *_: bar.update())
        for key, shape in shapes.items():
            dtype = np.float32 if key in ("landmarks", "boxes") else np.uint8
            merged = np.lib.format.open_memmap(folder / f"{key}.npy", "w+", dtype, (len(spec), *shape))
            for block in blocks:
                with np.load(folder / f"{block:05d}.npz") as part:
                    merged[block * BLOCK : (block + 1) * BLOCK] = part[key]
            merged.flush()  # to the disk: what is complete stays so when the power goes
        (folder / "complete").touch()
        for block in blocks:
            (folder / f"{block:05d}.npz").unlink(missing_ok=True)


def _opened(spec: PoolSpec, folder: Path) -> Pool:
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in _shapes(spec)}
    return Pool(spec, **arrays, folder=folder)


def captions(pool: Pool, rows: NDArray[np.int64], seed: int, *, anonymous: bool = False) -> list[Caption]:
    """Captions of rows of a pool of one person a picture, see `describe`; another seed words them otherwise."""
    people, scenes = pool.tables(rows)
    generators = [np.random.default_rng((seed, int(row))) for row in rows]
    return [describe(people, scenes, i, rng, anonymous=anonymous) for i, rng in enumerate(generators)]


def group_captions(pool: Pool, rows: NDArray[np.int64], seed: int, *, anonymous: bool = False) -> list[GroupCaption]:
    """Captions of rows of a pool of several people a picture, see `describe_group`; another seed words them
    otherwise."""
    groups = pool.spec.groups(rows)
    generators = [np.random.default_rng((seed, int(row))) for row in rows]
    return [describe_group(groups, i, rng, anonymous=anonymous) for i, rng in enumerate(generators)]


def shown_on(pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the pictures of rows show of each factor of `FACTORS`, (B, F); of several people nothing is known."""
    if pool.spec.together > 1:
        return np.full((len(rows), len(FACTORS)), UNSEEN)
    return shown(*pool.tables(rows))


def copied(array: NDArray[Any], rows: NDArray[np.int64] | slice) -> Tensor:
    """Rows of an array that may lie in a file, as a tensor of their own."""
    return torch.from_numpy(np.array(array[rows]))


def pixels(images: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    return tensor.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1
