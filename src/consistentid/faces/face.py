"""What is known of a face: `Detection`, where it is, and `Face`, all else."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from consistentid.faces.alignment import TEMPLATE, similarity

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels; the picture ends before right and bottom."""


@dataclass(frozen=True, eq=False)
class Detection:
    """Where a face is.

    Attributes:
        box: (4,) float32 left, top, right, bottom of the face from brow to chin.
        landmarks: (5, 2) float32 x, y of: the eye on the left of the upright face, the other eye, nose tip, the mouth
            corner on the left, the other corner.
        score: the detector's confidence, 0 to 1.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float

    @property
    def side(self) -> float:
        """The box's longer side, pixels."""
        return float(max(self.box[2:] - self.box[:2]))

    @property
    def area(self) -> float:
        """Of the box, square pixels."""
        return float(np.prod(self.box[2:] - self.box[:2]))

    @property
    def centre(self) -> tuple[float, float]:
        """Of the box, x and y."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2

    @cached_property
    def tilt(self) -> float:
        """Degrees by which the head is turned clockwise in the picture, -180 to 180; 0 = upright."""
        return math.degrees(-cmath.phase(self._aligning[0]))

    @property
    def quarters(self) -> int:
        """Quarter turns counter-clockwise, 0 to 3, after which the picture shows the face most nearly upright."""
        return round(self.tilt / 90) % 4

    @cached_property
    def misfit(self) -> float:
        """How far the landmarks are from those of a frontal face, in units of its eyes' distance, root mean square.

        About 0.1 for a frontal face, up to 0.25 for a turned one; much more where there is no face.
        """
        a, b = self._aligning
        template = TEMPLATE.astype(np.float64) @ (1, 1j)
        off = np.abs(a * (self.landmarks.astype(np.float64) @ (1, 1j)) + b - template)
        return float(np.sqrt((off**2).mean()) / abs(template[1] - template[0]))

    @cached_property
    def _aligning(self) -> tuple[complex, complex]:
        if not self.landmarks.std(axis=0).any():  # all in one place, which is that of no face
            return 0j, 0j
        return similarity(self.landmarks, TEMPLATE)


@dataclass(frozen=True, eq=False)
class Face(Detection):
    """One face of a picture.

    Attributes:
        embedding: (D,) float32 of unit length: whose face it is.
        parsing: (H, W) uint8 CelebAMask-HQ labels of this face, at the size of the whole picture.
        quality: 0 to 1, how well the face can be seen, see `consistentid.faces.quality`.
        warnings: what is wrong with it, a few words each; empty = nothing.
    """

    embedding: NDArray[np.float32]
    parsing: NDArray[np.uint8]
    quality: float
    warnings: tuple[str, ...] = ()


def largest_first(faces: Iterable[Detection]) -> list[Detection]:
    """Faces by the area of their boxes."""
    return sorted(faces, key=attrgetter("area"), reverse=True)
