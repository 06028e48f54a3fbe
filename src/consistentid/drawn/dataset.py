"""Data sets of drawn portraits on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.data.records import IMAGES, MASKS, RECORDS, Record, write_records
from consistentid.drawn.portraits import (
    SPLITS,
    WORLD,
    Groups,
    describe,
    describe_group,
    draw_groups,
    locate_groups,
    sample_groups,
    sample_people,
    sample_scenes,
    with_company,
)
from consistentid.errors import InputError
from consistentid.files.claims import claimed
from consistentid.files.writing import check_folder, replacing

PHOTOS: Final = "photos"
"""Folder of the plain pictures, one folder a person in it."""

_ABOUT: Final = "drawing.json"
_LIMITS: Final = {
    "people": (1, 1_000_000),
    "scenes": (1, 10_000),
    "size": (32, 1024),
    "seed": (0, 2**32 - 1),
    "people_per_picture": (1, 3),
}
_WIDTHS: Final = {1: 1.0, 2: 1.5, 3: 2.0}
"""People in a picture -> its width over its height."""
_BLOCK_PIXELS: Final = 2**21  # drawn at a time: about half a gigabyte of working memory


@dataclass(frozen=True)
class Drawing:
    """Which pictures a drawn data set holds: the first people of a split and seed, each in their first scenes.

    Attributes:
        people: how many, 1 to 1,000,000.
        scenes: pictures of each, 1 to 10,000.
        size: pixels of the height, 32 to 1024; pictures of one person are as wide, of two half as wide again, of three
            twice as wide.
        split: a name of `SPLITS`; the people of different splits are different.
        seed: 0 to 2^32 - 1; the people of different seeds are different.
        people_per_picture: 1 to 3; besides the person whose picture it is, others of the same people.

    Raises:
        InputError: a value that is not allowed, or fewer people than there are in a picture.
    """

    people: int
    scenes: int
    size: int = 128
    split: str = "train"
    seed: int = 0
    people_per_picture: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} {value}: must be at least {low} and at most {high}")
        if self.split not in SPLITS:
            raise InputError(f"split {self.split!r}: is unknown; the splits are {', '.join(SPLITS)}")
        if self.people < self.people_per_picture:
            raise InputError(
                f"people {self.people}: too few for {self.people_per_picture} in a picture; draw more people"
            )

    def __len__(self) -> int:
        return self.people * self.scenes

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the pictures."""
        return round(self.size * _WIDTHS[self.people_per_picture]), self.size

    def person(self, row: int) -> str:
        """The name of the person whose picture it is."""
        return self.called(row // self.scenes)

    def called(self, person: int) -> str:
        """The name of a person by number."""
        return f"{self.split}-{self.seed}-{person:05d}"

    def name(self, row: int) -> str:
        """The path of a picture in its folder, without the suffix."""
        return f"{self.person(row)}/{row % self.scenes:02d}"

    def keys(self, rows: range) -> list[tuple[int, int]]:
        """(number of the person, number of the scene) of pictures."""
        return [divmod(row, self.scenes) for row in rows]

    def members(self, rows: range) -> list[tuple[tuple[int, ...], int]]:
        """(numbers of the people from left to right, number of the scene) of pictures."""
        count = self.people_per_picture
        return with_company(self.keys(rows), range(self.people), count, split=self.split, seed=self.seed)

    def groups(self, rows: range) -> Groups:
        """Who is on pictures, in which scenes."""
        if self.people_per_picture == 1:
            keys = self.keys(rows)
            people = sample_people([person for person, _ in keys], split=self.split, seed=self.seed)
            return Groups(people, sample_scenes(keys, split=self.split, seed=self.seed), 1)
        width, height = self.sides
        return sample_groups(self.members(rows), split=self.split, seed=self.seed, aspect=width / height)

    def blocks(self) -> Iterator[range]:
        """Pictures that are drawn together."""
        width, height = self.sides
        step = max(1, min(32, _BLOCK_PIXELS // (width * height)))
        for start in range(0, len(self), step):
            yield range(start, min(start + step, len(self)))

    def records(self, rows: range) -> list[Record]:
        """The records of pictures.

        "landmarks" in their extra are (5, 2) pixels (x, y), in the order of `Portraits`, and "box" is left, top, right
        and bottom of the face. Pictures of several people have "people" instead, a list from left to right with these
        and "person", "caption", "face_caption" and "place" of each, and belong to no single person.
        """
        groups = self.groups(rows)
        found = (x.double().numpy().round(2).tolist() for x in locate_groups(groups, self.sides))
        records = []
        for i, (row, key, marks, boxes) in enumerate(zip(rows, self.keys(rows), *found, strict=True)):
            # Worded by its own key, so that a caption does not depend on how many others there are.
            rng = np.random.default_rng((SPLITS[self.split], self.seed, *key))
            file = f"{self.name(row)}.png"
            if self.people_per_picture == 1:
                told = describe(groups.people, groups.scenes, i, rng)
                extra: dict[str, Any] = {"landmarks": marks[0], "box": boxes[0]}
                records.append(Record(file, file, told.image, told.face, person=self.person(row), extra=extra))
                continue
            group = describe_group(groups, i, rng)
            [(members, _)] = self.members(range(row, row + 1))
            each = [
                {"person": self.called(number), "caption": caption.image, "face_caption": caption.face, "place": place}
                for number, caption, place in zip(members, group.people, group.places, strict=True)
            ]
            extra = {
                "people": [
                    {**one, "landmarks": mark, "box": box} for one, mark, box in zip(each, marks, boxes, strict=True)
                ]
            }
            records.append(Record(file, file, group.image, extra=extra))
        return records


def draw_dataset(
    drawing: Drawing, folder: Path, *, photos: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Draw a data set into a folder, in the layout of `consistentid.data.records`.

    Can be stopped at any moment; the same call goes on where it was and gives the same files, and where all is there
    already, changes nothing.

    Args:
        drawing: what to draw.
        folder: new, empty, or holding the same drawing.
        photos: also write plain JPEGs to `PHOTOS`, one folder a person.
        progress: called with (pictures done, pictures in all).

    Returns:
        "folder", "records", "photos" (paths or None), "pictures", "drawn" (how many of them just now), and the fields
        of the drawing.

    Raises:
        InputError: the folder holds something else, or cannot be written; or photos of several people are asked for.
    """
    if photos and drawing.people_per_picture > 1:
        raise InputError(
            f"photos of {drawing.people_per_picture} people: they lie in one folder a person; leave them out, or draw "
            "one person a picture"
        )
    width, height = drawing.sides
    check_folder(folder, megabytes=1 + int(len(drawing) * width * height * (1.4 if photos else 0.9)) // 2**20)
    about = {"consistentid": version("consistentid"), "world": WORLD, **asdict(drawing)}
    with claimed(folder, "drawn data set", about, note=_ABOUT):
        return _draw_into(drawing, folder, photos, progress)


def _draw_into(
    drawing: Drawing, folder: Path, photos: bool, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    drawn = 0
    for rows in drawing.blocks():
        if missing := [row for row in rows if not all(path.exists() for path in _files(drawing, row, folder, photos))]:
            portraits = draw_groups(drawing.groups(rows)[[row - rows.start for row in missing]], drawing.sides)
            for row, image, labels in zip(missing, portraits.pixels(), portraits.labels.numpy(), strict=True):
                _write(image, labels, *_files(drawing, row, folder, photos))
            drawn += len(missing)
        if progress:
            progress(rows.stop, len(drawing))
    if not (folder / RECORDS).exists():
        write_records(folder, [record for rows in drawing.blocks() for record in drawing.records(rows)])
    return {
        "folder": str(folder),
        "records": str(folder / RECORDS),
        "photos": str(folder / PHOTOS) if photos else None,
        "pictures": len(drawing),
        "drawn": drawn,
        **asdict(drawing),
    }


def _files(drawing: Drawing, row: int, folder: Path, photos: bool) -> list[Path]:
    name = drawing.name(row)
    files = [folder / IMAGES / f"{name}.png", folder / MASKS / f"{name}.png"]
    return [*files, folder / PHOTOS / f"{name}.jpg"] if photos else files


def _write(image: NDArray[np.uint8], labels: NDArray[np.uint8], picture: Path, mask: Path, *photo: Path) -> None:
    for path, array in ((picture, image), (mask, labels), *((path, image) for path in photo)):
        with replacing(path) as temporary:
            Image.fromarray(array).save(temporary, quality=95)
