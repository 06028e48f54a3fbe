"""Photographs told from drawings, so that networks which know drawings only are not given photographs."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from consistentid.errors import PhotographError
from consistentid.faces.from_labels import SureParser

_BACKGROUND: Final = 0
_SIDE: Final = 64
_ALIKE: Final = 16.0
_SQUARES: Final = 16
"""At most so many squares of a picture are looked at."""

SURE, UNSURE, TEXTURE = 0.86, 0.8, 34.0
"""Limits of `DrawingGuard`: between drawings and photographs, as `benchmarks/drawing_guard.py` measures them for the
parser that ships."""


def certainty(image: Image.Image, parser: SureParser) -> float:
    """How sure a parser of drawings is of people's pixels on average, 0 to 1; 1 where it sees nobody.

    In a drawing nearly every pixel belongs to what it was taught, and it knows where one thing ends; in photographs it
    guesses. The least sure of `squares` counts.
    """
    seen = parser.parse_surely(squares(image, min(image.size)))
    people = [sure[labels != _BACKGROUND] for labels, sure in seen]
    return min(float(np.mean(x)) if len(x) else 1.0 for x in people)


def texture(image: Image.Image) -> float:
    """How photographic a picture looks: steps between neighbours over how often two pixels have the same colour.

    Drawings have large areas of one colour or of even shading; in photographs neighbours differ nearly everywhere, and
    colours are many. The steps are those that 30 % of places exceed after a median filter, which takes away what JPEG
    adds at edges; colours are the same when they are at most 16 of 256 apart, and the root of their share counts.
    Measured at 64 pixels; the most photographic of `squares` counts.
    """
    return max(map(_texture, squares(image, _SIDE)))


def squares(image: Image.Image, side: int) -> list[Image.Image]:
    """Squares that together cover a picture, since a person may stand anywhere in it before a wall or the sky."""
    count = -(-max(image.size) // min(image.size))
    places = [index / max(count - 1, 1) for index in range(min(count, _SQUARES))]
    whole = image.convert("RGB")
    return [ImageOps.fit(whole, (side, side), Image.Resampling.LANCZOS, centering=(x, x)) for x in places]


def _texture(small: Image.Image) -> float:
    grey = np.asarray(small.filter(ImageFilter.MedianFilter(3)), np.float32).mean(axis=2)
    steps = np.maximum(np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1])
    colors = np.asarray(small, np.float32)[::2, ::2].reshape(-1, 3)
    lengths = (colors**2).sum(axis=1)
    apart = lengths[:, None] + lengths - 2 * colors @ colors.T
    return float(np.percentile(steps, 70) / (apart <= _ALIKE**2).mean() ** 0.5)


class DrawingGuard:
    """Refuses photographs; a `DomainGuard`.

    What a parser of drawings is sure of is a drawing, and what it is very unsure of is none; in between a picture's
    texture decides.

    Args:
        parser: was trained on drawings alone.
        sure, unsure: the `certainty` from which a picture is a drawing, and below which it is none.
        texture: the greatest `texture` of a drawing of which the parser is neither.
    """

    def __init__(
        self, parser: SureParser, *, sure: float = SURE, unsure: float = UNSURE, texture: float = TEXTURE
    ) -> None:
        self.parser, self.sure, self.unsure, self.texture = parser, sure, unsure, texture

    def __call__(self, image: Image.Image) -> None:
        """Raise `PhotographError` for a photograph."""
        if not self.is_drawing(image):
            raise PhotographError(
                "this is a photograph, and the preset 'drawn' knows drawn portraits only;"
                " use a preset for photographs: --preset sd15 or --preset sdxl"
            )

    def is_drawing(self, image: Image.Image) -> bool:
        """Whether a picture counts as one."""
        found = certainty(image, self.parser)
        return found >= self.sure or (found >= self.unsure and texture(image) <= self.texture)
