"""The steps that make a training picture of a raw one: find the person, cut, parse, recognise, put into words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.adapter.prompt import completed
from consistentid.adapter.spec import AdapterSpec
from consistentid.data.build.similar import perceptual_hash
from consistentid.errors import ImageError, PhotographError
from consistentid.faces.analyzer import FaceAnalyzer, remove_others
from consistentid.faces.caption import Caption, Captioner
from consistentid.faces.choice import most_alike, rivals
from consistentid.faces.crop import cut
from consistentid.faces.face import Detection
from consistentid.faces.islands import remove_islands
from consistentid.faces.parts import part_areas
from consistentid.faces.portrait import moved, square_round
from consistentid.faces.quality import assess, quality
from consistentid.faces.upright import settled, turned, turned_face
from consistentid.files.images import load_image

REASONS: Final = {
    "unreadable": "no picture, or one that is broken, too small or too large",
    "photograph": "a photograph, and the networks know drawings only",
    "no face": "no face was found",
    "several people": "several faces of like size, so that nobody can say who is meant",
    "small face": "the face has too few pixels",
    "poor face": "the face is blurred or turned away",
    "no parts": "no part of the face can be seen",
}
"""Why pictures are rejected: the code in reports, and what it means."""

PLAIN_CAPTION: Final = "a portrait of a person"
"""What stands where nobody has put the picture into words."""

_MIN_FACE: Final = 16
"""The face's box, before it is resized, has at least the picture's final side over this."""

_PIXELS: Final = 48_000_000
"""Of full-size pictures in memory at a time: about 150 MB. Few large pictures are taken together, or many small."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """One raw picture made ready.

    Attributes:
        picture: RGB, square.
        labels: (size, size) uint8 CelebAMask-HQ labels of the person.
        embedding: (512,) float32 of unit length, from the picture at its full size.
        caption: in words.
        landmarks: (5, 2) float32, in pixels of `picture`.
        face_size: the longer side of the face's box in the raw picture, pixels.
        quality: 0 to 1, see `consistentid.faces.quality`.
        parts: those that are visible, in order of `PARTS`.
        hash: see `perceptual_hash`.
    """

    picture: Image.Image
    labels: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    caption: Caption
    landmarks: NDArray[np.float32]
    face_size: float
    quality: float
    parts: tuple[str, ...]
    hash: int


@dataclass(frozen=True)
class Rejection:
    """Why a picture was not taken: `code` is a key of `REASONS`, `reason` a sentence with what was found."""

    code: str
    reason: str


Outcome = Portrait | Rejection


@dataclass(frozen=True, eq=False)
class _Found:
    """A raw picture with its faces, the person's first."""

    row: int
    image: Image.Image
    faces: Sequence[Detection]

    @property
    def face(self) -> Detection:
        return self.faces[0]

    @cached_property
    def quality(self) -> float:
        return quality(self.image, self.face)


class Annotator:
    """Takes raw pictures through all steps, several at a time.

    Args:
        analyzer: finds, recognises and parses faces.
        size: side of the finished pictures, pixels.
        captioner: puts pictures into words; without one, pictures keep the words they came with, or get plain ones.
        same_person: cosine of two embeddings from which they are taken for one person.
    """

    def __init__(
        self, analyzer: FaceAnalyzer, size: int, captioner: Captioner | None = None, same_person: float = 0.2
    ) -> None:
        self.analyzer = analyzer
        self.same_person = same_person
        self.size = size
        self.captioner = captioner

    def __call__(self, files: Sequence[Path], words: Sequence[Caption | None]) -> list[Outcome]:
        """What became of each file.

        Args:
            files: picture files, or what claims to be.
            words: what is already known of each in words.
        """
        outcomes: dict[int, Outcome] = {}
        for batch in self._batches(files, outcomes):
            people = self._people(batch, files, outcomes)
            if people:
                outcomes.update(self._portraits(people, words))
        return [outcomes[row] for row in range(len(files))]

    def _batches(self, files: Sequence[Path], outcomes: dict[int, Outcome]) -> Iterator[list[tuple[int, Image.Image]]]:
        """The pictures that can be read, no more at a time than memory is meant to hold."""
        batch: list[tuple[int, Image.Image]] = []
        pixels = 0
        for row, file in enumerate(files):
            try:
                image = load_image(file)
                if self.analyzer.guard is not None:
                    self.analyzer.guard(image)
            except ImageError as error:
                outcomes[row] = Rejection("unreadable", str(error).removeprefix(f"{file}: "))
                continue
            except PhotographError as error:
                outcomes[row] = Rejection("photograph", str(error))
                continue
            area = image.width * image.height
            if batch and pixels + area > _PIXELS:
                yield batch
                batch, pixels = [], 0
            batch.append((row, image))
            pixels += area
        if batch:
            yield batch

    def _people(
        self, batch: Sequence[tuple[int, Image.Image]], files: Sequence[Path], outcomes: dict[int, Outcome]
    ) -> list[_Found]:
        """The pictures in which it is clear who is meant, and the face can be seen."""
        found = []
        detections = self.analyzer.detect_batch([image for _, image in batch])
        chosen = self._of_the_folder(batch, files, detections)
        for (row, image), faces, place in zip(batch, detections, chosen, strict=True):
            if rejection := _unclear(faces, place):
                outcomes[row] = rejection
                continue
            face = settled(image, faces[place or 0], self.analyzer.detector)
            one = _Found(row, image, [face, *(x for number, x in enumerate(faces) if number != (place or 0))])
            if rejection := self._objection(one):
                outcomes[row] = rejection
            else:
                found.append(one)
        return found

    def _of_the_folder(
        self,
        batch: Sequence[tuple[int, Image.Image]],
        files: Sequence[Path],
        detections: Sequence[Sequence[Detection]],
    ) -> list[int | None]:
        """Of pictures with several faces of like size the one that is on the other pictures of the folder, too."""
        chosen: list[int | None] = [None] * len(batch)
        near = [rivals(faces) if faces else [] for faces in detections]
        folders: dict[Path, list[int]] = {}
        for place, (row, _) in enumerate(batch):
            if near[place]:
                folders.setdefault(files[row].parent, []).append(place)
        for places in folders.values():
            if all(len(near[place]) == 1 for place in places):
                continue
            embeddings = [
                self.analyzer.recogniser.embed_batch(
                    [batch[place][1]] * len(near[place]), [face.landmarks for face in near[place]]
                )
                for place in places
            ]
            for place, index in zip(places, most_alike(embeddings, self.same_person), strict=True):
                chosen[place] = index
        return chosen

    def _objection(self, found: _Found) -> Rejection | None:
        least = self.size / _MIN_FACE
        if (side := found.face.side) < least:
            return Rejection(
                "small face", f"the face has {side:.0f} pixels, less than {least:.0f}; use a closer picture"
            )
        if refusal := assess(found.image, found.face).refusal:
            return Rejection("poor face", f"{refusal}; use a sharper, frontal one")
        return None

    def _portraits(self, people: Sequence[_Found], words: Sequence[Caption | None]) -> dict[int, Outcome]:
        analyzer, size = self.analyzer, self.size
        embeddings = analyzer.recogniser.embed_batch(
            [one.image for one in people], [one.face.landmarks for one in people]
        )
        squares = [square_round(one.face, one.image.size) for one in people]
        pictures = [
            turned(
                cut(one.image, square).resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0),
                one.face.quarters,
            )
            for one, square in zip(people, squares, strict=True)
        ]
        outcomes: dict[int, Outcome] = {}
        ready = []
        labelled = zip(people, squares, pictures, embeddings, analyzer.parser.parse_batch(pictures), strict=True)
        for one, square, picture, embedding, labels in labelled:
            faces = [turned_face(moved(face, square, size), one.face.quarters, (size, size)) for face in one.faces]
            remove_others(labels, faces[0], faces, (0, 0, size, size))
            remove_islands(labels, faces[0].landmarks)
            if visible := list(part_areas(labels)):
                ready.append((one, faces[0], picture, embedding, labels, visible))
            else:
                outcomes[one.row] = Rejection("no parts", "no part of the face can be seen; use a clearer picture")
        if self.captioner:
            told: Sequence[Caption | None] = self.captioner.describe([picture for _, _, picture, *_ in ready])
        else:
            told = [words[one.row] for one, *_ in ready]
        for (one, face, picture, embedding, labels, visible), caption in zip(ready, told, strict=True):
            outcomes[one.row] = Portrait(
                picture=picture,
                labels=labels,
                embedding=embedding,
                caption=_in_words(caption, visible),
                landmarks=face.landmarks,
                face_size=one.face.side,
                quality=one.quality,
                parts=tuple(visible),
                hash=perceptual_hash(picture),
            )
        return outcomes


def _unclear(faces: Sequence[Detection], place: int | None) -> Rejection | None:
    if not faces:
        return Rejection("no face", "no face found; use a picture in which it is larger, sharper or to the front")
    if place is None and (many := len(rivals(faces))) > 1:
        return Rejection("several people", f"{many} faces of like size; cut out the person who is meant")
    return None


def _in_words(caption: Caption | None, visible: Sequence[str]) -> Caption:
    """Something to say of every picture, and of every part of the face that is visible."""
    known = caption or Caption("", "")
    return Caption(known.image or PLAIN_CAPTION, completed(known.face, visible, AdapterSpec()))
