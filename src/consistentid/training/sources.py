"""Where training pictures come from: drawn portraits or a data set, as one interface."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from consistentid.data.dataset import epoch_order
from consistentid.data.open import open_dataset
from consistentid.drawn.pools import Pool, captions, group_captions, shown_on
from consistentid.drawn.portraits import Caption
from consistentid.drawn.portraits.captions import part_phrases
from consistentid.drawn.scene_reader import FACTORS, UNSEEN
from consistentid.errors import DatasetError
from consistentid.training.schedule import Order, shuffled


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a person.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 CelebAMask-HQ labels.
        embedding: (D,) float32, whose face it is; None where it has to be computed from
        landmarks: (5, 2) float32 pixels.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    embedding: NDArray[np.float32] | None
    landmarks: NDArray[np.float32] | None


@dataclass(frozen=True)
class Exchange:
    """A picture of a person with one part of somebody else.

    Attributes:
        part: of `PARTS`.
        own, other: rows of a picture of the person, and of whose part it is.
        words: what the part is called: "green eyes".
    """

    part: str
    own: int
    other: int
    words: str


@dataclass(frozen=True, eq=False)
class Member:
    """One of several people on a picture.

    Attributes:
        portraits: rows of pictures of them alone, as `Source.of_person` has them.
        landmarks: (5, 2) float32 pixels of the picture.
        face: what is said of their face.
    """

    portraits: Sequence[int]
    landmarks: NDArray[np.float32]
    face: str


class Source(Protocol):
    """Pictures of people by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Picture:
        """One picture; slow, for it may have to be read and decoded."""

    def key(self, row: int) -> str:
        """Names a picture for people."""

    def version(self, row: int) -> str:
        """Names a picture for caches: another text whenever its content is another."""

    def caption(self, row: int, wording: int, *, anonymous: bool = False) -> Caption:
        """What the picture shows; where the source can, another number words it otherwise, and an anonymous one tells
        nothing of the person beside the parts of the face."""

    def of_person(self, row: int) -> Sequence[int]:
        """All pictures of the same person, this one included, always in the same order: the first are references."""

    def order(self, seed: int) -> Order:
        """The order of each epoch."""

    def groups(self) -> Sequence[range]:
        """Further rows, in ranges of one shape and number of people each: pictures of several people."""

    def members(self, row: int, wording: int) -> list[Member]:
        """The people on a picture of `groups`, from left to right."""

    def exchanges(self) -> range:
        """Further rows: pictures of people with one part of somebody else; none where pictures cannot be had so."""

    def exchange(self, row: int) -> Exchange:
        """What is exchanged on a picture of `exchanges`."""

    def shown(self, row: int) -> NDArray[np.int64]:
        """(F,), what the picture shows of each factor of `FACTORS`, `UNSEEN` where that is not known."""

    def name(self) -> str:
        """Tells these pictures of these people, in this order, from others; wherever they lie."""


class DrawnSource:
    """The pictures of a pool, up to a number of people; those of pools of several people a picture, and of one with
    exchanged parts."""

    def __init__(self, pool: Pool, people: int = 0, groups: Sequence[Pool] = (), exchanged: Pool | None = None) -> None:
        self.pool = pool
        self.people = min(people or pool.spec.people, pool.spec.people)
        others = [*groups, *([exchanged] if exchanged else [])]
        ends = accumulate((len(x) for x in others), initial=len(self))
        self._others = [(range(*both), x) for both, x in zip(pairwise(ends), others, strict=True)]

    def __len__(self) -> int:
        return self.people * self.pool.spec.scenes

    def _find(self, row: int) -> tuple[Pool, int]:
        """The pool of a picture, and its row in it."""
        return next(((pool, row - rows.start) for rows, pool in self._others if row in rows), (self.pool, row))

    def __getitem__(self, row: int) -> Picture:
        pool, row = self._find(row)
        image, labels, landmarks = (np.array(x[row]) for x in (pool.images, pool.labels, pool.landmarks))
        return Picture(image, labels, None, landmarks if pool.spec.together == 1 else None)

    def key(self, row: int) -> str:
        """See `Source.key`."""
        pool, row = self._find(row)
        person, scene = pool.spec.keys(np.array([row]))[0]
        company = f" with {pool.spec.together - 1} more" if pool.spec.together > 1 else ""
        if pool.spec.exchanged:
            company = f" with another's {pool.spec.exchanges(np.array([row]))[0][0]}"
        return f"person {person}{company} in scene {scene}"

    def version(self, row: int) -> str:
        """See `Source.version`."""
        pool, row = self._find(row)
        return _digest(np.ascontiguousarray(x[row]).data for x in (pool.images, pool.labels, pool.landmarks))

    def caption(self, row: int, wording: int, *, anonymous: bool = False) -> Caption:
        """See `Source.caption`."""
        pool, row = self._find(row)
        if pool.spec.together > 1:
            return Caption(group_captions(pool, np.array([row]), wording, anonymous=anonymous)[0].image, "")
        return captions(pool, np.array([row]), wording, anonymous=anonymous)[0]

    def of_person(self, row: int) -> Sequence[int]:
        """See `Source.of_person`. Large faces first: who is on a picture is told by those."""
        scenes = self.pool.spec.scenes
        rows = np.arange(row // scenes * scenes, (row // scenes + 1) * scenes)
        boxes = self.pool.boxes[rows]
        found: list[int] = rows[np.argsort(boxes[:, 1] - boxes[:, 3], kind="stable")].tolist()
        return found

    def _portraits(self, number: int) -> Sequence[int]:
        """`of_person` of the person of that number."""
        return self.of_person((number - self.pool.spec.first) * self.pool.spec.scenes)

    def order(self, seed: int) -> Order:
        """See `Source.order`."""
        return shuffled(len(self), seed)

    def groups(self) -> Sequence[range]:
        """See `Source.groups`."""
        return [rows for rows, pool in self._others if not pool.spec.exchanged]

    def members(self, row: int, wording: int) -> list[Member]:
        """See `Source.members`."""
        pool, row = self._find(row)
        [told], [numbers] = group_captions(pool, np.array([row]), wording), pool.spec.members(np.array([row]))
        return [
            Member(self._portraits(int(number)), np.array(landmarks), words.face)
            for number, landmarks, words in zip(numbers, pool.landmarks[row], told.people, strict=True)
        ]

    def exchanges(self) -> range:
        """See `Source.exchanges`."""
        return next((rows for rows, pool in self._others if pool.spec.exchanged), range(0))

    def exchange(self, row: int) -> Exchange:
        """See `Source.exchange`."""
        pool, row = self._find(row)
        [(part, other)] = pool.spec.exchanges(np.array([row]))
        people, _ = pool.tables(np.array([row]))
        own = pool.spec.keys(np.array([row]))[0][0]
        return Exchange(part, self._portraits(own)[0], self._portraits(other)[0], part_phrases(people, 0)[part])

    def shown(self, row: int) -> NDArray[np.int64]:
        """See `Source.shown`."""
        pool, row = self._find(row)
        [values] = shown_on(pool, np.array([row]))
        return np.asarray(values)

    def name(self) -> str:
        """See `Source.name`."""
        return ", ".join([f"{self.people} people of {self.pool.name}", *(pool.name for _, pool in self._others)])


def _digest(contents: Iterable[bytes | memoryview]) -> str:
    """Follows from all bytes and their division: nothing else of a picture, neither its place nor its neighbours."""
    digest = sha256()
    for content in contents:
        digest.update(sha256(content).digest())
    return digest.hexdigest()


class DatasetSource:
    """The samples of the data set in a folder, up to a number of people."""

    def __init__(self, path: Path, people: int = 0) -> None:
        self.dataset = dataset = open_dataset(path)
        self._versions: dict[int, str] = {}  # of this process's rows: reading is quick, but not for nothing
        groups: dict[str | int, list[int]] = {}
        for row, person in enumerate(dataset.people):
            groups.setdefault(row if person is None else person, []).append(row)
        kept = list(groups.values())[: people or None]
        self._people = {row: group for group in kept for row in group}
        if not self._people:
            raise DatasetError("the data set has no pictures; build it first, see 'consistentid dataset build --help'")

    def __len__(self) -> int:
        return len(self._people)

    def __getitem__(self, row: int) -> Picture:
        sample = self.dataset[row]
        return Picture(sample.picture, sample.labels, sample.embedding, sample.landmarks)

    def key(self, row: int) -> str:
        """See `Source.key`."""
        return self.dataset.keys[row]

    def version(self, row: int) -> str:
        """See `Source.version`."""
        if row not in self._versions:
            dataset, record = self.dataset, self.dataset.record(row)
            kinds = ("image", "mask", *(["embedding"] if record.embedding is not None else []))
            contents = [dataset.content(row, kind) for kind in kinds]
            self._versions[row] = _digest([*contents, repr(record.extra.get("landmarks")).encode()])
        return self._versions[row]

    def caption(self, row: int, wording: int, *, anonymous: bool = False) -> Caption:  # noqa: ARG002 - it has one
        """See `Source.caption`."""
        record = self.dataset.record(row)
        return Caption(record.caption, record.face_caption)

    def of_person(self, row: int) -> Sequence[int]:
        """See `Source.of_person`."""
        return self._people[row]

    def order(self, seed: int) -> Order:
        """See `Source.order`."""

        def rows(epoch: int) -> NDArray[np.int64]:
            everyone = epoch_order(self.dataset, seed, epoch)
            return everyone[np.isin(everyone, list(self._people))]

        return lru_cache(maxsize=2)(rows)

    def groups(self) -> Sequence[range]:
        """See `Source.groups`."""
        return ()

    def members(self, row: int, wording: int) -> list[Member]:  # noqa: ARG002 - a data set knows of one person
        """See `Source.members`."""
        raise DatasetError(f"picture {row} is of one person: a data set has no others")

    def exchanges(self) -> range:
        """See `Source.exchanges`."""
        return range(0)

    def exchange(self, row: int) -> Exchange:
        """See `Source.exchange`."""
        raise DatasetError(f"picture {row} shows no exchanged part: a data set has none")

    def shown(self, row: int) -> NDArray[np.int64]:  # noqa: ARG002 - a data set tells of none
        """See `Source.shown`."""
        return np.full(len(FACTORS), UNSEEN)

    def name(self) -> str:
        """See `Source.name`."""
        rows = [f"{self.dataset.keys[row]} {self.dataset.people[row]}".encode() for row in self._people]
        return f"{len(rows)} pictures, {_digest(rows)[:12]}"
