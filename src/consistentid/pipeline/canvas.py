"""Given pictures and the size a base works at: what is cut out for sampling, and how the result is put back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from PIL import Image

from consistentid.errors import InputError

MULTIPLE = 8
"""Sides that are sampled are multiples of this many pixels."""


@dataclass(frozen=True)
class Canvas:
    """A window of a given picture and the size at which it is sampled.

    Attributes:
        box: (left, top, right, bottom) of the window, pixels of the given picture.
        size: (width, height) in pixels, multiples of 8, of about the window's shape.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]

    @classmethod
    def whole(cls, picture: tuple[int, int], base: tuple[int, int]) -> Self:
        """The whole picture, with as many pixels as a base of size (width, height) is made for."""
        return cls((0, 0, *picture), _same_shape(picture, base))

    @classmethod
    def around(cls, mask: Image.Image, base: tuple[int, int]) -> Self:
        """The masked area with its surroundings: a margin of half its longer side, as far as the picture goes.

        So a small face of a large picture gets all the pixels that the base can draw.

        Raises:
            InputError: the mask is black.
        """
        area = mask.getbbox()
        if area is None:
            raise InputError("the mask is black all over; paint white what is to be drawn anew")
        left, top, right, bottom = area
        margin = max(right - left, bottom - top) // 2
        left, right = max(left - margin, 0), min(right + margin, mask.width)
        top, bottom = max(top - margin, 0), min(bottom + margin, mask.height)
        return cls((left, top, right, bottom), _same_shape((right - left, bottom - top), base))

    def cut(self, picture: Image.Image) -> Image.Image:
        """The window of a picture, at the size that is sampled."""
        return picture.resize(self.size, Image.Resampling.LANCZOS, box=self.box)

    def paste(self, sampled: Image.Image, picture: Image.Image, mask: Image.Image) -> Image.Image:
        """The picture with what was sampled in the masked area; where the mask is 0, every pixel stays the same.

        Args:
            sampled: of `size`.
            picture: RGB, the given one.
            mask: "L", of the picture's size; between 0 and 255 both are mixed.
        """
        left, top, right, bottom = self.box
        window = sampled.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        result = picture.copy()
        result.paste(window, (left, top), mask.crop(self.box))
        return result


def _same_shape(shape: tuple[int, int], base: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of one picture's shape and another's number of pixels, in multiples of 8."""
    scale = math.sqrt(base[0] * base[1] / (shape[0] * shape[1])) / MULTIPLE
    return max(round(shape[0] * scale), 1) * MULTIPLE, max(round(shape[1] * scale), 1) * MULTIPLE
