"""Whom a model is tested on: held-out drawn people, or a folder of photos of your own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from consistentid.drawn import portraits
from consistentid.drawn.portraits import People, Scenes, describe, draw, sample_people, sample_scenes
from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import InputError
from consistentid.evaluation.protocol import Prompt
from consistentid.files.weights import content_digest
from consistentid.files.writing import replacing

SIZE = 128
"""Pixels of a side of drawn references and real pictures."""

TEST, VALIDATION = "test", "validation"
"""Splits of drawn people whom no network has learnt from: the first for figures to report, the second to choose by."""

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Person:
    """Somebody to be drawn.

    Attributes:
        name: also a folder's name.
        reference: the picture that the model sees.
        others: other pictures of the same person, which it does not see.
        real: number of a prompt -> the one of `others` that shows this person as the prompt asks; empty for photos.
        face_text: a true sentence about the face; empty where none is known.
    """

    name: str
    reference: Path
    others: tuple[Path, ...] = ()
    real: Mapping[int, Path] = field(default_factory=dict)
    face_text: str = ""


def draw_people(
    folder: Path,
    count: int,
    prompts: Sequence[Prompt],
    progress: Callable[[int, int], None] | None = None,
    *,
    split: str = TEST,
) -> list[Person]:
    """Held-out drawn people: a reference in a scene of chance, and for each prompt a real picture of what it asks.

    What is there already is kept, so that an interrupted run goes on. A name ends in a hash of what the picture was
    drawn of and by, so that one of other traits, of another scene, or by another way of drawing is another file.

    Args:
        folder: one folder a person is made in it.
        count: the first so many people of the split.
        prompts: with `asks`; what a prompt leaves open is of chance, but hats, glasses, expressions and drawing styles
            that it does not mention are absent, as they are in captions.
        progress: called with (people done, people in all).
        split: `TEST` or `VALIDATION`.
    """
    people = []
    for number in range(count):
        home = folder / f"{split}-{number:05d}"
        names = ["reference", *(f"real-{index:02d}" for index in range(len(prompts)))]
        who = sample_people([number] * len(names), split=split)
        scenes = sample_scenes([(number, scene) for scene in range(len(names))], split=split, framing="portrait")
        scenes = Scenes.concatenate(
            [scenes[:1], *(as_asked(scenes[i + 1 : i + 2], p.asks) for i, p in enumerate(prompts))]
        )
        files = [home / f"{name}-{_key(who, scenes, row)}.png" for row, name in enumerate(names)]
        if missing := [row for row, file in enumerate(files) if not file.exists()]:
            for row, pixels in zip(missing, draw(who[missing], scenes[missing], SIZE).pixels(), strict=True):
                with replacing(files[row]) as temporary:
                    Image.fromarray(pixels).save(temporary)
        told = describe(who, scenes, 0, np.random.default_rng(number)).face
        real = dict(enumerate(files[1:]))
        people.append(Person(home.name, files[0], tuple(files[1:]), real, told))
        if progress:
            progress(number + 1, count)
    return people


def _key(who: People, scenes: Scenes, row: int) -> str:
    """8 hexadecimal digits that tell a drawing from any other."""
    digest = hashlib.sha256(f"{SIZE} {_way_of_drawing()}".encode())
    for table in (who[row : row + 1], scenes[row : row + 1]):
        for item in fields(table):
            digest.update(item.name.encode() + np.ascontiguousarray(getattr(table, item.name)).tobytes())
    return digest.hexdigest()[:8]


@cache
def _way_of_drawing() -> str:
    return content_digest(Path(portraits.__file__).parent, "*.py")


def as_asked(scene: Scenes, asks: Mapping[str, str]) -> Scenes:
    """A scene, one row, changed to show what a prompt asks; what no caption would leave out is absent if not asked."""
    told = {"hat": "none", "glasses": "none", "expression": "neutral", **asks}
    if "style" not in told:  # captions name every style but these two
        told["style"] = "flat" if scene.style[0] == FACTORS["style"].index("flat") else "shaded"
    return replace(scene, **{factor: np.array([FACTORS[factor].index(value)]) for factor, value in told.items()})


def read_people(folder: Path, count: int) -> list[Person]:
    """People of a folder that holds one folder of pictures for each; the first picture by name is the reference.

    Raises:
        InputError: there are no or not so many people in it.
    """
    homes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [(home, sorted(x for x in home.iterdir() if x.suffix.lower() in _SUFFIXES)) for home in homes]
    people = [Person(home.name, files[0], tuple(files[1:])) for home, files in found if files]
    if not people:
        raise InputError(f"{folder}: holds no people; make one folder of pictures for each person in it")
    if len(people) < count:
        raise InputError(f"{folder}: holds {len(people)} people, not {count}; lower --people or add some")
    return people[:count]
