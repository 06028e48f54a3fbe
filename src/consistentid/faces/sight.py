"""Looking at a person's photos: which face is meant, how well it can be seen, the portrait cut out round it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from consistentid.errors import FaceError, InputError, PhotographError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.choice import most_alike, pick, rivals
from consistentid.faces.face import Detection, Face
from consistentid.faces.portrait import portrait
from consistentid.faces.quality import assess
from consistentid.faces.verification import outliers


@dataclass(frozen=True, eq=False)
class Sight:
    """One photo of a person, and what was seen of it.

    Attributes:
        name: of the photo.
        photo: RGB.
        faces: all that were detected, largest first.
        index: of the person's among them.
        face: the person's, in the photo.
        portrait: the square cut out round it, which CLIP sees: upright, other people's heads in black.
        there: the face in it.
    """

    name: str
    photo: Image.Image
    faces: tuple[Detection, ...]
    index: int
    face: Face
    portrait: Image.Image
    there: Face


def look(
    analyzer: FaceAnalyzer,
    photos: Sequence[Image.Image],
    *,
    names: Sequence[str] | None = None,
    face_index: int | Sequence[int | None] | None = None,
    same_person: float,
    skip_bad: bool = False,
) -> list[Sight]:
    """The person on photos, before anything is encoded.

    Of a photo with several faces of like size the one is meant that is on the other photos, too; where the faces are of
    different sizes the large one.

    Args:
        analyzer: finds, recognises and parses faces.
        photos: RGB pictures of one person.
        names: of the photos, for messages; "picture 1", ... by default.
        face_index: which face, largest first, where a photo has several: one for all photos or one for each.
        same_person: cosine of two embeddings from which they are taken for one person.
        skip_bad: leave out photos without a clear, usable face of the person, with a `UserWarning` that names them, as
            long as one is left.

    Raises:
        InputError: no photos, or names or indices that do not fit them.
        NoFaceError, SeveralFacesError: a photo without a face, or without a clear choice.
        FaceError: a face that cannot be used, or a photo of another person than the others.
        PhotographError: see `FaceAnalyzer.analyze`.
    """
    if not photos:
        raise InputError("no pictures to identify; give at least one")
    names = names if names is not None else [f"picture {number}" for number in range(1, len(photos) + 1)]
    indices = [face_index] * len(photos) if face_index is None or isinstance(face_index, int) else face_index
    if not len(names) == len(indices) == len(photos):
        raise InputError(f"{len(photos)} pictures, {len(names)} names and {len(indices)} face indices do not fit")
    bad = _Bad(skip_bad)
    found: dict[int, list[Detection]] = {}
    for row, (name, photo) in enumerate(zip(names, photos, strict=True)):
        with bad.left_out():
            found[row] = _faces(analyzer, name, photo)
    likely = _likely(analyzer, photos, names, found, indices, same_person)
    sights = []
    for row, faces in found.items():
        with bad.left_out():
            sights.append(_sight(analyzer, names[row], photos[row], faces, likely.get(row, indices[row])))
    if not sights:
        assert bad.first is not None
        raise bad.first
    odd = outliers(
        np.stack([sight.face.embedding for sight in sights]),
        same_person,
        np.array([sight.face.quality for sight in sights], np.float32),
    )
    if odd:
        alone = len(odd) == len(sights)
        strangers = FaceError(
            f"{' and '.join(sights[row].name for row in odd)}:"
            f" {'show different people' if alone else 'not of the person on the other pictures'}; leave out what is not"
            f" meant, choose the right face by index, or lower the preset's same_person ({same_person:g})"
        )
        if alone:
            raise strangers
        with bad.left_out():
            raise strangers
        sights = [sight for row, sight in enumerate(sights) if row not in odd]
    return sights


class _Bad:
    """Photos that cannot be used: each is an error, or noted and left out; `first` is the first error."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.first: FaceError | None = None

    @contextmanager
    def left_out(self) -> Iterator[None]:
        try:
            yield
        except FaceError as error:
            if not self.skip:
                raise
            self.first = self.first or error
            warnings.warn(f"left out: {error}", stacklevel=4)


def _faces(analyzer: FaceAnalyzer, name: str, photo: Image.Image) -> list[Detection]:
    try:
        faces = analyzer.detect(photo)
    except PhotographError as error:
        raise PhotographError(f"{name}: {error}") from None
    if not faces:
        pick(faces, name)  # raises
    return faces


def _likely(
    analyzer: FaceAnalyzer,
    photos: Sequence[Image.Image],
    names: Sequence[str],
    found: dict[int, list[Detection]],
    indices: Sequence[int | None],
    same_person: float,
) -> dict[int, int]:
    """For photos of several faces of like size, none chosen, the index of the one that is on the other photos."""
    near = {
        row: rivals(faces) if indices[row] is None else [pick(faces, names[row], indices[row])]
        for row, faces in found.items()
    }
    unclear = [row for row, faces in near.items() if len(faces) > 1]
    if not unclear or len(near) < 2:
        return {}
    embeddings = [
        analyzer.recogniser.embed_batch([photos[row]] * len(faces), [face.landmarks for face in faces])
        for row, faces in near.items()
    ]
    chosen = dict(zip(near, most_alike(embeddings, same_person), strict=True))
    return {row: place for row in unclear if (place := chosen[row]) is not None}


def _sight(analyzer: FaceAnalyzer, name: str, photo: Image.Image, faces: list[Detection], index: int | None) -> Sight:
    chosen = pick(faces, name, index)
    others = [face for face in faces if face is not chosen]
    face = analyzer.describe(photo, chosen, faces)
    if refusal := assess(photo, face).refusal:
        raise FaceError(f"{name}: the face cannot be used: {refusal}; use a sharper, frontal one")
    place = next(number for number, one in enumerate(faces) if one is chosen)
    return Sight(name, photo, tuple(faces), place, face, *portrait(photo, face, others))
