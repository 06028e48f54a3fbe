"""How well a face can be seen, and what is wrong with it: one rule for `identify` and for data sets.

The limits were chosen on variants of real photos, by what became of the cosine to the photo as it was; see
`benchmarks/hard_photos.py` and docs/faces.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from consistentid.faces.alignment import SIZE, TEMPLATE, align, way_back
from consistentid.faces.face import Detection
from consistentid.faces.upright import TILTED, plausible

MIN_QUALITY: Final = 0.01
"""Under this a face is no use."""

_LEAST: Final = 0.05
"""Of each factor, so that one fault alone does not hide all differences."""

_SHARP: Final = 0.12
"""Edges over contrast from which an aligned face is sharp."""

_CONTRAST: Final = 0.2
"""Between the darkest and the brightest twentieth of a face, brightness in [0, 1], from which it is well exposed."""

_WHITE: Final = 250 / 255
"""Brightness from which a pixel is over-exposed."""

_BLACK: Final = 4 / 255
"""Brightness up to which a pixel is under-exposed."""

_UPRIGHT_RATIO: Final = (0.66, 1.5)
"""From eyes to mouth over the eyes' distance, of a frontal face as it is; beyond, the picture was stretched."""


@dataclass(frozen=True)
class Quality:
    """What was measured of a face, each 0.05 to 1.

    Attributes:
        size: the box's longer side against 112 pixels.
        sharpness: contrast of neighbouring pixels against that of the whole aligned face.
        exposure: contrast of the face, and how little of it is white or black.
        frontality: how near the nose is to the middle between the eyes.
        shape: 1 where eyes, nose and mouth lie as on a face, 0.5 where it is stretched, 0.05 on something else.
        inside: how much of the aligned face is in the picture.
        warnings: what is wrong, a few words each.
    """

    size: float
    sharpness: float
    exposure: float
    frontality: float
    shape: float
    inside: float
    warnings: tuple[str, ...]

    @property
    def value(self) -> float:
        """The product, 0 to 1."""
        return self.size * self.sharpness * self.exposure * self.frontality * self.shape * self.inside

    @property
    def refusal(self) -> str:
        """Why this face must not be used; empty = it may."""
        if self.shape <= _LEAST:
            return "eyes, nose and mouth do not lie as on a face"
        if self.value < MIN_QUALITY:
            return f"quality {self.value:.3f} is less than {MIN_QUALITY}" + "".join(f", {x}" for x in self.warnings)
        return ""


def assess(image: Image.Image, face: Detection) -> Quality:
    """How well a face can be seen.

    Args:
        image: RGB picture.
        face: in it.
    """
    if not face.landmarks.std(axis=0).any():  # all in one place: there is nothing to measure
        return Quality(_LEAST, _LEAST, _LEAST, _LEAST, _LEAST, _LEAST, warnings=())
    warnings = []
    grey = np.asarray(align(image, face.landmarks).convert("L"), np.float32) / 255
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    middle = grey[16:108, 16:96]  # skin and features, and little else
    dark, bright = np.percentile(middle, (5, 95))
    contrast = float(bright - dark)
    white, black = float((middle >= _WHITE).mean()), float((middle <= _BLACK).mean())
    inside = _inside(face, image.size)
    sharpness = float(edges.std()) / max(contrast, _LEAST) / _SHARP
    turn = _turn(face)

    if face.side < 40:
        warnings.append(f"the face has only {face.side:.0f} pixels")
    if sharpness < 0.5:
        warnings.append("blurred")
    if white > 0.3:
        warnings.append(f"over-exposed: {white:.0%} of the face is white")
    elif bright < 0.1:
        warnings.append("under-exposed")
    elif contrast < 0.1:
        warnings.append("hardly any contrast")
    if turn > 0.7:
        warnings.append("turned away")
    if inside < 0.75:
        warnings.append("cut off by the picture's border")
    shape = 1.0 if plausible(face) else _LEAST
    low, high = _UPRIGHT_RATIO
    if shape == 1 and turn < 0.35 and not low <= (ratio := _ratio(face)) <= high:
        warnings.append("stretched upwards" if ratio > high else "stretched sideways")
        shape = 0.5
    if abs(face.tilt) > TILTED:
        warnings.append(f"tilted by {abs(face.tilt):.0f} degrees")
    if face.score < 0.6:
        warnings.append(f"hardly told to be a face: score {face.score:.2f}")
    return Quality(
        size=_factor(face.side / SIZE),
        sharpness=_factor(sharpness),
        exposure=_factor(min(1.0, contrast / _CONTRAST) * (1 - max(white, black) * inside)),
        frontality=_factor(1 - turn),
        shape=shape,
        inside=_factor(inside),
        warnings=tuple(warnings),
    )


def _factor(value: float) -> float:
    return min(max(value, _LEAST), 1.0)


def quality(image: Image.Image, face: Detection) -> float:
    """`Quality.value` of a face in an RGB picture, 0 to 1."""
    return assess(image, face).value


def _turn(face: Detection) -> float:
    """How far the nose is from the middle between the eyes: 0 in it, 1 at one of them."""
    left, right, nose = (complex(x, y) for x, y in face.landmarks[:3])
    across = right - left
    return abs(((nose - left) / across).real - 0.5) * 2 if across else 1.0


def _ratio(face: Detection) -> float:
    """From the eyes to the mouth over the distance of the eyes; about 1.1 of a frontal face."""
    left, right, _, *mouth = (complex(x, y) for x, y in face.landmarks)
    across = right - left
    down = (sum(mouth) / 2 - (left + right) / 2) / across
    return abs(down.imag)


def _inside(face: Detection, size: tuple[int, int]) -> float:
    """Share of the aligned face that is in a picture of that size."""
    back, shift = way_back(face.landmarks)
    low, high = TEMPLATE.min(axis=0) - 16, TEMPLATE.max(axis=0) + 16  # eyes to mouth, with what is round them
    x, y = np.meshgrid(np.linspace(low[0], high[0], 16), np.linspace(low[1], high[1], 16))
    points = back * (x + 1j * y) + shift
    there = (points.real >= 0) & (points.real <= size[0]) & (points.imag >= 0) & (points.imag <= size[1])
    return float(there.mean())
