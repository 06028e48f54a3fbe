"""Faces that lie on their side or stand on their head.

Detectors find many of them, surely enough, and place their landmarks as if they were upright; a recogniser then sees
somebody else. So a doubtful face is looked at again, turned.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.faces.crop import cut
from consistentid.faces.face import Detection

Found = TypeVar("Found", bound=Detection)

TILTED: Final = 35.0
"""Degrees from which a face is looked at again, turned upright: detectors know faces up to there."""

UNSURE: Final = 0.7
"""Score under which a face is looked at again, turned by quarters."""

MISFIT: Final = 0.35
"""`Detection.misfit` from which landmarks are those of no face: a profile has 0.25, and mistakes more than 0.37."""

_BETTER: Final = 0.1
"""How much surer a detector must be of a turned face to believe that it is turned."""

_ROUND: Final = 3.0
"""Side of the square that is turned, as a multiple of the face's box."""

_LARGEST: Final = 1024
"""Pixels of that square's side; a larger one is shrunk."""

_ROTATIONS: Final = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


class _Detects(Protocol):
    def detect(self, image: Image.Image) -> list[Detection]: ...


def plausible(face: Detection) -> bool:
    """Whether the landmarks lie as on a face."""
    return face.misfit < MISFIT


def settled(image: Image.Image, face: Found, detector: _Detects) -> Found:
    """The face with its landmarks where they are: a tilted or doubtful one is looked at again, turned.

    Args:
        image: RGB picture.
        face: in it.
        detector: that found it.
    """
    tilted = abs(face.tilt) > TILTED
    if not tilted and face.score >= UNSURE and plausible(face):
        return face
    side = _ROUND * face.side
    left, top = (round(middle - side / 2) for middle in face.centre)
    crop = cut(image, (left, top, left + round(side), top + round(side)))
    scale = min(1.0, _LARGEST / side)
    if scale < 1:
        crop = crop.resize((round(crop.width * scale),) * 2, Image.Resampling.BOX)
    found = list(_turned_looks(crop, face.tilt, detector)) if tilted else []
    if not any(one.score >= UNSURE for one in found):
        found += [one for angle in (90.0, 180.0, 270.0) for one in _turned_looks(crop, angle, detector)]
    best: Detection = face if plausible(face) else replace(face, score=0.0)
    # What detectors say of a face that they see tilted is worth less than of one they see upright.
    least = best.score + (0 if tilted else _BETTER)
    for one in found:
        if plausible(one) and one.score > max(least, best.score):
            best = one
    if best is face or not plausible(best):
        return face
    corner = np.array((left, top), np.float32)
    return replace(
        face,
        box=best.box / np.float32(scale) + np.tile(corner, 2),
        landmarks=best.landmarks / np.float32(scale) + corner,
        score=best.score,
    )


def detect_turned(image: Image.Image, detector: _Detects) -> list[Detection]:
    """The faces of a picture in which upright none is found: of the quarter turn that shows the surest ones."""
    looks = [
        [turned_face(face, -quarters, _turned_size(image.size, quarters)) for face in found]
        for quarters in (1, 2, 3)
        if (found := [x for x in detector.detect(turned(image, quarters)) if plausible(x) and abs(x.tilt) <= 45])
    ]
    return max(looks, key=lambda faces: sum(face.score for face in faces), default=[])


def turned(image: Image.Image, quarters: int) -> Image.Image:
    """The picture turned counter-clockwise by so many quarters."""
    rotation = _ROTATIONS[quarters % 4]
    return image if rotation is None else image.transpose(rotation)


def turned_labels(labels: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    """(H, W) labels turned in the same way."""
    return np.ascontiguousarray(np.rot90(labels, quarters))


def turned_face(face: Found, quarters: int, size: tuple[int, int]) -> Found:
    """The face in a picture that is turned in the same way; its parsing is not.

    Args:
        face: in a picture of
        size: width, height, before it is turned.
        quarters: counter-clockwise.
    """
    if quarters % 4 == 0:
        return face
    return _rotated(face, 90.0 * (quarters % 4), size, _turned_size(size, quarters))


def _turned_looks(crop: Image.Image, angle: float, detector: _Detects) -> Iterator[Detection]:
    """The face in the middle of a crop turned by `angle` against its tilt, once more where it is still tilted."""
    for _ in range(2):
        shown = crop.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        middle = np.array(shown.size) / 2
        near = [face for face in detector.detect(shown) if np.abs(face.centre - middle).max() < max(crop.size) / 6]
        if not near:
            return
        face = max(near, key=lambda x: x.score)
        if abs(face.tilt) <= TILTED:
            yield _rotated(face, -angle, shown.size, crop.size)
            return
        angle += face.tilt


def _rotated(face: Found, angle: float, size: tuple[int, int], new_size: tuple[int, int]) -> Found:
    """The face in a picture rotated counter-clockwise about its middle by `angle` degrees."""
    turn = cmath.exp(-1j * math.radians(angle))  # y goes down
    middle, new_middle = complex(*size) / 2, complex(*new_size) / 2

    def moved(points: NDArray[np.float32]) -> NDArray[np.float32]:
        z = (points.astype(np.float64) @ (1, 1j) - middle) * turn + new_middle
        return np.stack([z.real, z.imag], axis=-1).astype(np.float32)

    centre = moved(np.array(face.centre, np.float32))
    extent = (face.box[2:] - face.box[:2]) / 2
    if round(angle / 90) % 2:
        extent = extent[::-1]
    return replace(face, box=np.concatenate([centre - extent, centre + extent]), landmarks=moved(face.landmarks))


def _turned_size(size: tuple[int, int], quarters: int) -> tuple[int, int]:
    return size[::-1] if quarters % 2 else size
