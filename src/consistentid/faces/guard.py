"""Photographs told from drawings, so that networks which know drawings only are not given photographs."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from consistentid.errors import PhotographError

_SIDE: Final = 64
_ALIKE: Final = 16.0

_SQUARES: Final = 16
"""At most so many squares of a picture are looked at."""

LIMIT: Final = 36.0
"""`texture` from which a picture counts as a photograph: between drawings and photographs as
`benchmarks/drawing_guard.py` measures them."""


def texture(image: Image.Image) -> float:
    """How photographic a picture looks: steps between neighbours over how often two pixels have the same colour.

    Drawings have large areas of one colour or of even shading; in photographs neighbours differ nearly everywhere, and
    colours are many. The steps are those that 30 % of places exceed after a median filter, which takes away what JPEG
    adds at edges; colours are the same when they are at most 16 of 256 apart, and the root of their share counts.
    Measured at 64 pixels on squares that together cover the picture; the most photographic one counts, since a person
    may stand anywhere in it before a wall or the sky.
    """
    count = -(-max(image.size) // min(image.size))
    places = [index / max(count - 1, 1) for index in range(min(count, _SQUARES))]
    return max(_texture(image.convert("RGB"), place) for place in places)


def _texture(image: Image.Image, place: float) -> float:
    small = ImageOps.fit(image, (_SIDE, _SIDE), Image.Resampling.LANCZOS, centering=(place, place))
    grey = np.asarray(small.filter(ImageFilter.MedianFilter(3)), np.float32).mean(axis=2)
    steps = np.maximum(np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1])
    colors = np.asarray(small, np.float32)[::2, ::2].reshape(-1, 3)
    squares = (colors**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * colors @ colors.T
    return float(np.percentile(steps, 70) / (apart <= _ALIKE**2).mean() ** 0.5)


class DrawingGuard:
    """Refuses photographs; a `DomainGuard`.

    Args:
        limit: the greatest `texture` of a drawing.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit = limit

    def __call__(self, image: Image.Image) -> None:
        """Raise `PhotographError` for a photograph."""
        if texture(image) > self.limit:
            raise PhotographError(
                "this is a photograph, and the preset 'drawn' knows drawn portraits only;"
                " use a preset for photographs: --preset sd15 or --preset sdxl"
            )
