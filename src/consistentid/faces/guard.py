"""Photographs told from drawings, so that networks which know drawings only are not given photographs."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageOps

from consistentid.errors import PhotographError

_SIDE: Final = 64
_FLAT: Final = 3.0

LIMIT: Final = 285.0
"""`texture` from which a picture counts as a photograph."""


def texture(image: Image.Image) -> float:
    """How photographic a picture looks: distinct colours times the squared share of pixels that are not flat.

    Drawings have large areas of one colour or of even shading; in photographs hardly any pixel equals what its
    neighbours predict, and colours are many. Measured on the middle square at 64 pixels, with 5 bits a colour channel.
    """
    small = np.asarray(ImageOps.fit(image.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.LANCZOS))
    grey = small.astype(np.float32).mean(axis=2)
    bend = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    colors = len(np.unique((small // 8).reshape(-1, 3), axis=0))
    return colors * float((np.abs(bend) >= _FLAT).mean()) ** 2


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
