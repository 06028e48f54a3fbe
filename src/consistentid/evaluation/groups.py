"""The protocol `people`: pictures of several people together, made by a preset or by any tool, and their measures.

A list of pictures is a CSV file, one line a picture, paths relative to it:

| column | meaning |
|---|---|
| `picture` | the picture to be scored; empty or a missing file = the tool refused, which counts as a failure |
| `people` | the pictures of the people that the tool saw, separated by `;` |
| `regions` | where each was asked to be, `left,top,right,bottom` in fractions, separated by `;`; may be empty |
| `prompt` | may be empty |
| `method` | which tool or setting made it |
| `others` | other pictures of each person, unseen by the tool: people separated by `;`, pictures by `,`; may be empty |
| `before` | the picture that the people were put into: faces outside the regions are bystanders; may be empty |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Regions
from consistentid.drawn.portraits import WORLD, draw_groups, sample_groups
from consistentid.errors import ArgumentError, FaceError, InputError, NoFaceError
from consistentid.evaluation.generation import in_studios
from consistentid.evaluation.metrics import Estimate
from consistentid.evaluation.people import TEST, Person, draw_people
from consistentid.evaluation.protocol import Prompt
from consistentid.evaluation.together import Together, measure, summary
from consistentid.faces.analyzer import FaceAnalyzer, embed_largest
from consistentid.faces.face import Detection, largest_first
from consistentid.faces.matching import similarities
from consistentid.faces.verification import impostor_threshold
from consistentid.files.claims import claimed
from consistentid.files.config import plain
from consistentid.files.images import load_image
from consistentid.files.output import encode_json
from consistentid.files.tables import read_table, write_table
from consistentid.files.writing import check_folder, replacing, write_whole
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.places import faces_in, faces_outside
from consistentid.pipeline.request import Request
from consistentid.presets.keys import model_key, settings_key
from consistentid.provenance.marks import UNMARKED

LIST = "pictures.csv"
_CLAIM = "run.json"
PROMPTS = (
    "a painting of two people: a person on the left and a person on the right, on a beach",
    "a painting of two people: a person on the left and a person on the right, in a forest",
    "a painting of two people: on the left a person wearing a red beanie and on the right a person wearing a blue cap,"
    " in the mountains",
    "a painting of two people: a person smiling on the left and a person smiling on the right, in the snow",
)
"""In words of the drawings' captions: the pairs are drawn people, and a preset that knows them may know no others."""

PLACES = ((0.03, 0.05, 0.5, 1.0), (0.5, 0.05, 0.97, 1.0))
"""Left and right half; the people of a pair are asked to be there."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "regions": {},
    "regions, repaired": {
        "repair": True,
        "repair_below": 1.0,
        "repair_tries": 3,
    },  # of every face the most alike is kept
    "tokens only": {"merge_at": 1.0, "face_text": ""},  # what peers do: the words are the same for all
}
ALONE = "one person"
"""The ceiling of the method: each person alone in the same place, so that nothing is shared."""

REAL = "real drawings"
"""The ceiling of the ruler: both people as they are drawn, where the preset takes the references of both."""

OTHERS = 2
"""Pictures of each drawn person that the preset does not see, against which copying is measured."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Group:
    """One picture of a list; paths are complete."""

    picture: Path | None
    people: tuple[Path, ...]
    regions: tuple[tuple[float, ...], ...] = ()
    prompt: str = ""
    method: str = ""
    others: tuple[tuple[Path, ...], ...] = ()
    before: Path | None = None

    @property
    def names(self) -> str:
        """Who is on it."""
        return " + ".join(str(path) for path in self.people)


_COLUMNS = tuple(field.name for field in fields(Group))


def write_list(file: Path, groups: Sequence[Group]) -> None:
    """Writes a list whose paths are relative to its own folder."""
    home = file.parent
    lines = [
        [
            "" if group.picture is None else _from(home, group.picture),
            ";".join(_from(home, path) for path in group.people),
            ";".join(",".join(f"{x:g}" for x in box) for box in group.regions),
            group.prompt,
            group.method,
            ";".join(",".join(_from(home, path) for path in each) for each in group.others),
            "" if group.before is None else _from(home, group.before),
        ]
        for group in groups
    ]
    write_table(file, _COLUMNS, lines)


def _from(home: Path, path: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()


def read_list(file: Path, folder: Path | None = None) -> list[Group]:
    """The pictures of a list.

    Args:
        file: CSV.
        folder: what its paths are relative to; the file's own folder by default.

    Raises:
        InputError: the file is missing, no CSV of this form, or a picture of a person is missing.
    """
    base = folder or file.parent
    groups = []
    lines = read_table(file, _COLUMNS, ("picture", "people"), what="list", help_page="docs/several-people.md")
    for where, cells in lines:
        people = tuple(base / name.strip() for name in cells["people"].split(";") if name.strip())
        if absent := [path for path in people if not path.is_file()]:
            raise InputError(f"{where}: {absent[0]} does not exist; paths are relative to {base}")
        try:
            regions = tuple(tuple(float(x) for x in box.split(",")) for box in cells["regions"].split(";") if box)
        except ValueError:
            raise InputError(f"{where}: regions={cells['regions']!r} are no numbers") from None
        if not people or (regions and len(regions) != len(people)):
            raise InputError(f"{where}: {len(people)} people and {len(regions)} regions do not fit")
        try:
            if regions:
                Regions.read(regions)
        except ArgumentError as error:
            raise InputError(f"{where}: {error}") from None
        picture = base / cells["picture"] if cells["picture"] else None
        known = picture if picture and picture.is_file() else None
        others = tuple(tuple(base / name for name in each.split(",") if name) for each in _each(cells["others"]))
        if others and len(others) != len(people):
            raise InputError(
                f"{where}: {len(people)} people and others of {len(others)} do not fit; separate them by ;"
            )
        before = base / cells["before"] if cells["before"] else None
        if before and not regions:
            raise InputError(f"{where}: before needs regions, for the faces outside of them are the bystanders")
        if absent := [path for each in (*others, (before,)) for path in each if path and not path.is_file()]:
            raise InputError(f"{where}: {absent[0]} does not exist; paths are relative to {base}")
        groups.append(Group(known, people, regions, cells["prompt"], cells["method"] or file.stem, others, before))
    return groups


def _each(cell: str) -> list[str]:
    return cell.split(";") if cell else []


def make_pairs(
    studio: ConsistentIDPipeline,
    folder: Path,
    pairs: int,
    prompts: Sequence[str],
    workers: int = 1,
    progress: Progress | None = None,
    *,
    split: str = TEST,
) -> list[Group]:
    """Pictures of pairs of held-out drawn people, two in each, of each alone in the same place, and real drawings.

    Can be stopped at any moment; the same call goes on where it was, also with more pairs or prompts. A picture that is
    not made, since the preset refuses a person's reference, is `None` in its group.

    Args:
        studio: a preset for drawings.
        folder: of the pictures; new, empty, or of the same preset.
        pairs: how many; no person is in two of them.
        prompts: of each pair.
        workers: processes that make pictures.
        progress: called with (pictures done, pictures in all).
        split: of the people, see `draw_people`.

    Raises:
        InputError: the folder holds something else.
        ConsistentIDError: weights are missing, the disk is full, a process was killed.
    """
    about = {**model_key(studio.preset), "dtype": str(studio.dtype), "settings": settings_key(studio.preset)}
    drawings = WORLD if split == TEST else f"{WORLD}, {split}"
    about |= {"prompts": PROMPTS, "methods": METHODS, "places": PLACES, "drawings": drawings}
    with claimed(check_folder(folder), "evaluation of pairs", plain(about), note=_CLAIM):
        people = draw_people(folder / "people", 2 * pairs, [Prompt("", "others")] * OTHERS, split=split)
        twos = [people[2 * pair : 2 * pair + 2] for pair in range(pairs)]
        width, height = studio.sampler.native_size
        size = width * 3 // 16 * 8, height
        asked = [_asked(folder, pair, two, prompts) for pair, two in enumerate(twos)]
        total, done = sum(map(len, asked)), 0

        def finish(pair: Sequence[_Asked], _: None) -> None:
            nonlocal done
            done += len(pair)
            if progress:
                progress(done, total)

        in_studios(studio, partial(_make, size, split), asked, workers, finish)
        made = [one.group() for pair in asked for one in pair]
        write_list(folder / LIST, made)
    return made


@dataclass(frozen=True)
class _Asked:
    """A picture that is to be made."""

    pair: int
    number: int  # of the prompt
    file: Path
    people: Sequence[Person]
    regions: Sequence[tuple[float, ...]]
    prompt: str
    method: str

    @property
    def seed(self) -> int:
        """The same for all methods."""
        return 1000 * self.pair + self.number

    def group(self) -> Group:
        references = tuple(person.reference for person in self.people)
        others = tuple(person.others for person in self.people)
        file = self.file if self.file.is_file() else None
        return Group(file, references, tuple(self.regions), self.prompt, self.method, others)


def _asked(folder: Path, pair: int, two: Sequence[Person], prompts: Sequence[str]) -> list[_Asked]:
    each: list[tuple[str, str, Sequence[Person], Sequence[tuple[float, ...]]]]
    each = [(method, "", two, PLACES) for method in (*METHODS, REAL)]
    each += [(ALONE, f"-{i}", [person], PLACES[i : i + 1]) for i, person in enumerate(two)]
    asked = []
    for number, prompt in enumerate(prompts):
        for method, more, people, regions in each:
            file = folder / method.replace(",", "").replace(" ", "-") / f"{pair:05d}-{number}{more}.png"
            asked.append(_Asked(pair, number, file, people, regions, prompt, method))
    return asked


def _make(size: tuple[int, int], split: str, studio: ConsistentIDPipeline, pair: Sequence[_Asked]) -> None:
    """Make the missing pictures of a pair; those with somebody whose reference is refused stay missing."""
    width, height = size
    identities: dict[Path, Identity | None] = {}
    for asked in pair:
        if asked.file.is_file():
            continue
        for person in asked.people:
            if person.reference not in identities:
                identities[person.reference] = _identified(studio, person.reference)
        who = [known for person in asked.people if (known := identities[person.reference])]
        if len(who) < len(asked.people):
            continue
        asked.file.parent.mkdir(parents=True, exist_ok=True)
        if asked.method == REAL:
            with replacing(asked.file) as temporary:
                _real(asked, size, split).save(temporary)
            continue
        arguments: dict[str, Any] = {"seed": asked.seed, "width": width, "height": height}
        arguments |= METHODS.get(asked.method, {})
        request = Request(who, asked.prompt, regions=asked.regions, **arguments)
        write_whole(asked.file, studio.generate(request).to_png(0, provenance=UNMARKED))


def _identified(studio: ConsistentIDPipeline, reference: Path) -> Identity | None:
    try:
        return studio.identify(reference)
    except FaceError:
        return None


def _real(asked: _Asked, size: tuple[int, int], split: str) -> Image.Image:
    """A drawing of both people of a pair, in a scene of chance."""
    people = 2 * asked.pair, 2 * asked.pair + 1
    groups = sample_groups([(people, asked.number)], split=split, aspect=size[0] / size[1])
    return Image.fromarray(draw_groups(groups, size).pixels()[0])


def score_groups(
    groups: Sequence[Group], faces: FaceAnalyzer, progress: Progress | None = None
) -> tuple[list[Together], float]:
    """The measures of each picture, and the threshold of the judge at a false acceptance rate of 1 %.

    Args:
        groups: the pictures.
        faces: detector and judge.
        progress: called with (pictures done, pictures in all).

    Raises:
        InputError: there are no pictures at all.
        NoFaceError: a picture of a person that was given to the tool, and of whom it made one, shows no face.
    """
    known: dict[Path, NDArray[np.float32]] = {}
    for path in sorted({path for group in groups if group.picture for path in group.people}):
        found = embed_largest(load_image(path), faces.detector, faces.recogniser)
        if found is None:
            raise NoFaceError(f"{path}: shows no face, so nobody can be compared to it")
        known[path] = found
    if not known:
        raise InputError("none of the pictures exists; look at the paths in the list")
    length = len(next(iter(known.values())))
    unseen = {
        path: embed_largest(load_image(path), faces.detector, faces.recogniser)
        for path in sorted({path for group in groups for each in group.others for path in each})
    }
    impostors = np.array([float(known[a] @ known[b]) for a, b in combinations(known, 2)])
    threshold = impostor_threshold(impostors)
    scored = []
    for done, group in enumerate(groups, 1):
        picture = load_image(group.picture) if group.picture else None
        seen: list[Detection] = []
        embeddings: list[NDArray[np.float32]] = []
        if picture:
            seen = largest_first(faces.detector.detect(picture))
            embeddings = [faces.recogniser.embed(picture, face.landmarks) for face in seen]
        nobody = np.zeros((len(group.people), 0), np.float32)
        alike = similarities([known[path] for path in group.people], embeddings) if picture else nobody
        places: list[int | None] | None = None
        if group.regions:
            places = faces_in(Regions.read(group.regions), seen, picture.size) if picture else [None] * len(alike)
        others = _alike_others(group, unseen, embeddings)
        now = np.stack(embeddings) if embeddings else np.zeros((0, length), np.float32)
        bystanders = (_bystanders(group, faces, length), now) if picture and group.before else None
        scored.append(measure(alike, len(seen), threshold, places, others, bystanders))
        if progress:
            progress(done, len(groups))
    return scored, threshold


def _alike_others(
    group: Group, unseen: Mapping[Path, NDArray[np.float32] | None], embeddings: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32] | None:
    """(P, F) mean cosines of other pictures of each person and the faces; a picture without a face tells nothing."""
    if not group.others:
        return None
    rows = []
    for each in group.others:
        found = [embedding for path in each if (embedding := unseen[path]) is not None]
        nothing = np.full((1, len(embeddings)), np.nan, np.float32)
        rows.append((similarities(found, embeddings) if found and embeddings else nothing).mean(axis=0))
    return np.stack(rows)


def _bystanders(group: Group, faces: FaceAnalyzer, width: int) -> NDArray[np.float32]:
    """(K, width) embeddings of the faces that are in nobody's region of the picture before."""
    assert group.before
    picture = load_image(group.before)
    seen = faces.detector.detect(picture)
    chosen = faces_outside(Regions.read(group.regions), seen, picture.size)
    found = [faces.recogniser.embed(picture, seen[face].landmarks) for face in chosen]
    return np.stack(found) if found else np.zeros((0, width), np.float32)


def report(
    groups: Sequence[Group], scored: Sequence[Together], threshold: float, judge: str, folder: Path
) -> dict[str, Any]:
    """Writes people.json and people.md: every measure of every method with its interval over groups of people."""
    methods: dict[str, dict[str, Estimate]] = {}
    for method in dict.fromkeys(group.method for group in groups):
        rows = [i for i, group in enumerate(groups) if group.method == method]
        methods[method] = summary([scored[i] for i in rows], np.array([groups[i].names for i in rows]))
    data = {
        "judge": judge,
        "threshold at FAR 1 %": threshold,
        "methods": {name: {key: asdict(value) for key, value in found.items()} for name, found in methods.items()},
    }
    names = [item.name for item in fields(Together)]
    lines = [f"Judge: {judge}.", "", f"| method | pictures | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for method, found in methods.items():
        cells = [_cell(found[name]) for name in names]
        lines.append(f"| {method} | {found[names[0]].pictures} | {' | '.join(cells)} |")
    home = check_folder(folder)
    for name, content in (("people.json", encode_json(data)), ("people.md", ("\n".join(lines) + "\n").encode())):
        write_whole(home / name, content)
    return data


def _cell(found: Estimate) -> str:
    """A measure with its interval; a dash where nothing could be measured."""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})" if found.pictures else "-"
