"""`FaceAnalyzer`: a picture in, all that is known of the faces in it out.

Three small protocols hold the backends together: a `Detector` finds faces, a `Recogniser` says whose they are, a
`Parser` says which pixels belong to which part. Coordinates are in pixels of the given picture, with (0, 0) at the
outer corner of the first pixel, so that its centre is (0.5, 0.5) and coordinates scale with the picture. "Left" and
"right" are the viewer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.faces.face import Detection, Face, largest_first
from consistentid.faces.islands import remove_islands
from consistentid.faces.parts import part_areas
from consistentid.faces.quality import assess
from consistentid.faces.upright import detect_turned, settled, turned, turned_labels

_SURROUNDINGS: Final = 2.0
"""Side of the crop on which a face is parsed, as a multiple of its box: about that of the pictures parsers learn on."""

_WHOLE: Final = 0.75
"""Share of the picture's longer side from which that crop is the whole picture."""


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces of an RGB picture, in any order; an empty list where there is none."""

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The same for each of several pictures, which may be of different sizes."""


class Recogniser(Protocol):
    """Says whose face it is."""

    def embed(self, image: Image.Image, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """(512,) float32 of unit length for the face with these (5, 2) landmarks in an RGB picture."""

    def embed_batch(
        self, images: Sequence[Image.Image], landmarks: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """(B, 512): the same for one face of each of several pictures."""


class Parser(Protocol):
    """Says which pixel belongs to which part."""

    def parse(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W) uint8 CelebAMask-HQ labels of an RGB picture, at its size."""

    def parse_batch(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """The same for each of several pictures, which may be of different sizes."""


class DomainGuard(Protocol):
    """Refuses pictures that the networks were not made for."""

    def __call__(self, image: Image.Image) -> None:
        """Raise `PhotographError` for an RGB picture of the wrong kind; return nothing for the right kind."""


class FaceAnalyzer:
    """Finds, recognises and parses the faces of a picture.

    Args:
        detector: finds boxes and landmarks.
        recogniser: makes embeddings.
        parser: makes label maps.
        guard: asked first; raises for pictures of the wrong kind.
    """

    def __init__(
        self, detector: Detector, recogniser: Recogniser, parser: Parser, guard: DomainGuard | None = None
    ) -> None:
        self.detector = detector
        self.recogniser = recogniser
        self.parser = parser
        self.guard = guard

    def analyze(self, image: Image.Image) -> list[Face]:
        """All faces of a picture, largest first.

        Args:
            image: RGB picture.

        Raises:
            PhotographError: the picture is a photograph and the networks know drawings only.
        """
        detections = self.detect(image)
        return [self.describe(image, found, detections) for found in detections]

    def detect(self, image: Image.Image) -> list[Detection]:
        """Where the faces are, largest first: the cheap half of `analyze`, which raises the same.

        Where there is none, the picture is looked at again on its sides and upside down.
        """
        if self.guard is not None:
            self.guard(image)
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The same for each of several pictures, which may be of different sizes; the guard is not asked."""
        found = [
            faces or detect_turned(image, self.detector)
            for image, faces in zip(images, self.detector.detect_batch(images), strict=True)
        ]
        return [largest_first(faces) for faces in found]

    def describe(self, image: Image.Image, face: Detection, detections: Sequence[Detection]) -> Face:
        """All that is known of one face, given all that were detected: the other half of `analyze`.

        A tilted or doubtful face is looked at once more, turned, so its landmarks may lie elsewhere than detected.
        """
        others = [other for other in detections if other is not face]
        face = settled(image, face, self.detector)
        seen = assess(image, face)
        parsing = self._parse(image, face, [face, *others])
        hidden = [part for part in ("eyes", "nose", "mouth") if part not in part_areas(parsing)]
        return Face(
            box=face.box,
            landmarks=face.landmarks,
            score=face.score,
            embedding=self.recogniser.embed(image, face.landmarks),
            parsing=parsing,
            quality=seen.value,
            warnings=(*seen.warnings, *(f"{part} not seen" for part in hidden)),
        )

    def _parse(self, image: Image.Image, face: Detection, detections: Sequence[Detection]) -> NDArray[np.uint8]:
        """Labels of one face at the picture's size; a small face is parsed on a crop round it, and upright."""
        crop = surroundings(face, image.size)
        left, top, right, bottom = crop
        labels = np.zeros((image.height, image.width), np.uint8)
        region = labels[top:bottom, left:right]
        quarters = face.quarters
        region[:] = turned_labels(self.parser.parse(turned(image.crop(crop), quarters)), -quarters)
        remove_others(region, face, detections, crop)
        remove_islands(region, face.landmarks - np.array(crop[:2], np.float32))
        return labels


def embed_largest(image: Image.Image, detector: Detector, recogniser: Recogniser) -> NDArray[np.float32] | None:
    """(512,) embedding of unit length of a picture's largest face; None where there is no face."""
    faces = largest_first(detector.detect(image))
    return recogniser.embed(image, faces[0].landmarks) if faces else None


def surroundings(face: Detection, size: tuple[int, int], times: float = _SURROUNDINGS) -> tuple[int, int, int, int]:
    """The square round a face, so many times as long as its box.

    Args:
        face: in a picture.
        size: width and height of that picture.
        times: by default the square on which a face is parsed.

    Returns:
        Left, top, right, bottom, cut to the picture; all of the picture where the square is nearly as large.
    """
    side = round(times * face.side)
    if side >= _WHOLE * max(size):
        return 0, 0, *size
    width, height = (min(side, length) for length in size)
    left, top = (
        round(min(max(centre - extent / 2, 0), length - extent))
        for centre, extent, length in zip(face.centre, (width, height), size, strict=True)
    )
    return left, top, left + width, top + height


def remove_others(
    labels: NDArray[np.uint8], face: Detection, detections: Sequence[Detection], crop: tuple[int, int, int, int]
) -> None:
    """Set to background, in place, what is nearer to another face than to this one.

    Args:
        labels: (h, w) of the crop.
        face: one of `detections`.
        detections: all faces of the picture.
        crop: left, top, right, bottom in the picture.
    """
    own = distances(face, crop)
    for other in detections:
        if other is not face:
            labels[distances(other, crop) < own] = 0


def distances(face: Detection, crop: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """(H, W) distance of a crop's pixels from a face's centre, in units of its size: the root of its box's area."""
    left, top, right, bottom = crop
    x, y = face.centre
    across = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)
    distance: NDArray[np.float32] = np.hypot(across[None, :], down[:, None]) / np.float32(max(face.area, 1) ** 0.5)
    return distance
