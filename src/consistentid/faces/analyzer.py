"""`FaceAnalyzer`: a picture in, all that is known of the faces in it out.

Three small protocols hold the backends together: a `Detector` finds faces, a `Recogniser` says whose they are, a
`Parser` says which pixels belong to which part. Coordinates are in pixels of the given picture, with (0, 0) at the
outer corner of the first pixel, so that its centre is (0.5, 0.5) and coordinates scale with the picture. "Left" and
"right" are the viewer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.errors import InputError, NoFaceError, SeveralFacesError


@dataclass(frozen=True, eq=False)
class Detection:
    """Where a face is.

    Attributes:
        box: (4,) float32 left, top, right, bottom of the face from brow to chin.
        landmarks: (5, 2) float32 x, y of: the eye on the picture's left, the other eye, nose tip, the mouth corner on
            the picture's left, the other corner.
        score: the detector's confidence, 0 to 1.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float


@dataclass(frozen=True, eq=False)
class Face(Detection):
    """One face of a picture.

    Attributes:
        embedding: (512,) float32 of unit length: whose face it is.
        parsing: (H, W) uint8 CelebAMask-HQ labels of this face, at the size of the whole picture.
        quality: 0 to 1, how well the face can be seen: size, sharpness, frontality.
    """

    embedding: NDArray[np.float32]
    parsing: NDArray[np.uint8]
    quality: float


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces of an RGB picture, in any order; an empty list where there is none."""


class Recogniser(Protocol):
    """Says whose face it is."""

    def embed(self, image: Image.Image, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """(512,) float32 of unit length for the face with these (5, 2) landmarks in an RGB picture."""


class Parser(Protocol):
    """Says which pixel belongs to which part."""

    def parse(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W) uint8 CelebAMask-HQ labels of an RGB picture, at its size."""


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

        Raises:
            PhotographError: the picture is a photograph and the networks know drawings only.
        """
        raise NotImplementedError


def pick(faces: Sequence[Face], photo: str, index: int | None = None) -> Face:
    """The one face that is meant.

    Args:
        faces: of one picture, largest first.
        photo: the picture's name, for messages.
        index: which face; may be left out where there is one.

    Raises:
        NoFaceError: there is none.
        SeveralFacesError: there are several and none was chosen.
        InputError: there is no face of that index.
    """
    remedy = "use a picture in which the face is larger, sharper or turned to the front"
    if not faces:
        raise NoFaceError(f"no face found in {photo}; {remedy}")
    if index is None and len(faces) > 1:
        places = "; ".join(f"{number}: centre ({x:.0f}, {y:.0f})" for number, (x, y) in enumerate(map(_centre, faces)))
        raise SeveralFacesError(
            f"{len(faces)} faces found in {photo}; choose one by its index, largest first ({places}), or crop the picture"
        )
    if not 0 <= (index or 0) < len(faces):
        raise InputError(f"no face {index} in {photo}; its faces are numbered 0 to {len(faces) - 1}, largest first")
    return faces[index or 0]


def _centre(face: Detection) -> tuple[float, float]:
    return float(face.box[0] + face.box[2]) / 2, float(face.box[1] + face.box[3]) / 2
