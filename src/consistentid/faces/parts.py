"""From parsing labels to facial parts to the pictures that the CLIP image encoder sees (paper, section 3.2).

Pure functions on label maps and pictures. Labels are those of CelebAMask-HQ; labels beyond them belong to no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.errors import InputError
from consistentid.faces.regions import fill_holes

PARTS: Final = ("face", "eyes", "ears", "nose", "mouth")
"""The facial parts, in the order of every tensor that has one row a part."""

LABELS: Final = (
    "background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear",
    "earring", "nose", "inner_mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat",
)  # fmt: skip
"""CelebAMask-HQ: the name of each label, by number; "left" is the left of the picture."""

PartLayout = Literal["square", "canvas"]


@dataclass(frozen=True)
class _Layout:
    """What one layout means.

    Attributes:
        labels: part -> sets of labels, in order of preference; the first set that is visible makes the part.
        min_pixels: pixels, at the label map's resolution, from which a part counts as visible.
        min_share: of the whole picture, from which CLIP has something to see of a part.
        filled: whether a part swallows what its outline encloses.
    """

    labels: Mapping[str, tuple[tuple[int, ...], ...]]
    min_pixels: int
    min_share: float
    filled: bool


_LAYOUTS: Final[Mapping[str, _Layout]] = MappingProxyType(
    {
        "square": _Layout(
            labels={
                "face": ((1, 2, 3),),
                "eyes": ((4, 5),),
                "ears": ((7, 8),),
                "nose": ((10,),),
                "mouth": ((11, 12, 13),),
            },
            min_pixels=4,
            min_share=0.0,  # each part is enlarged
            filled=False,
        ),
        "canvas": _Layout(  # the released weights know one eye, one ear and one lip
            labels={
                "face": ((1,),),
                "eyes": ((4,), (5,)),
                "ears": ((7,), (8,)),
                "nose": ((10,),),
                "mouth": ((12,), (13,)),
            },
            min_pixels=1,
            min_share=12 / 224**2,  # a dozen of CLIP's pixels: less than an eye in a portrait of head and shoulders
            filled=True,
        ),
    }
)

_MARGIN: Final = 0.25
"""Width added on each side of a part in the square layout, as a share of its longer side."""


def part_areas(labels: NDArray[np.uint8], layout: PartLayout = "square") -> dict[str, int]:
    """How many pixels each part has of which `part_pictures` makes a picture, before any filling.

    Arguments, order and errors as `part_masks`.
    """
    return {part: area for part, (_, area) in _visible(labels, layout, _rules(layout).min_share).items()}


def part_masks(labels: NDArray[np.uint8], layout: PartLayout = "square") -> dict[str, NDArray[np.bool_]]:
    """The pixels of each visible part.

    Args:
        labels: (H, W) uint8 CelebAMask-HQ labels.
        layout: "square" gives exact labels: both eyes, both ears, the whole mouth. "canvas" gives the released
            weights' choice: the left eye, the left ear and the upper lip, or else the right and the lower one, filled.

    Returns:
        part -> (H, W) bool, in order of `PARTS`; a part that is not visible is left out.

    Raises:
        InputError: an unknown layout.
    """
    return _masks(labels, layout, 0.0)


def _masks(labels: NDArray[np.uint8], layout: PartLayout, min_share: float) -> dict[str, NDArray[np.bool_]]:
    masks = {part: np.isin(labels, wanted) for part, (wanted, _) in _visible(labels, layout, min_share).items()}
    return {part: fill_holes(mask) for part, mask in masks.items()} if _LAYOUTS[layout].filled else masks


def part_pictures(
    image: Image.Image, labels: NDArray[np.uint8], layout: PartLayout = "square", canvas_size: int = 512
) -> dict[str, Image.Image]:
    """A picture of each visible part alone, ready for the CLIP image processor.

    Args:
        image: RGB picture (W, H).
        labels: (H, W) uint8 CelebAMask-HQ labels of one face in it.
        layout: "square" cuts a square round the part with a margin, nothing squashed. "canvas" keeps the whole picture.
            Both black out all pixels that are not the part's.
        canvas_size: side of the square map on which "canvas" fills outlines: 512 for SD1.5 weights, 1280 for SDXL.

    Returns:
        part -> RGB picture, in order of `PARTS`; a part that is not visible is left out, and in "canvas" one of which
        CLIP would get a few pixels only.

    Raises:
        InputError: an unknown layout, or labels of another size than the picture.
    """
    share = _rules(layout).min_share
    if layout == "canvas":
        resized = Image.fromarray(labels).resize((canvas_size, canvas_size), Image.Resampling.NEAREST)
        return {part: _on_black(image, mask) for part, mask in _masks(np.asarray(resized), layout, share).items()}
    if labels.shape != (image.height, image.width):
        raise InputError(f"labels of {labels.shape[::-1]} pixels do not belong to a picture of {image.size} pixels")
    return {
        part: _on_black(image, mask).crop(square_around(mask)) for part, mask in _masks(labels, layout, share).items()
    }


def whole_picture(image: Image.Image, box: NDArray[np.float32], layout: PartLayout = "square") -> Image.Image:
    """The picture that stands for the whole reference.

    Args:
        image: RGB picture.
        box: (4,) left, top, right, bottom of the face, pixels.
        layout: "square" cuts the largest square that the picture holds, as near to the face as the borders allow.
            "canvas" leaves the picture to the CLIP processor's centre crop.

    Returns:
        RGB picture.

    Raises:
        InputError: an unknown layout.
    """
    _rules(layout)
    if layout == "canvas":
        return image
    return image.crop(largest_square(image.size, box))


def largest_square(size: tuple[int, int], box: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """The largest square in a picture (width, height), as near to a box as the borders allow.

    Both are left, top, right, bottom.
    """
    side = min(size)
    left, top = (
        round(min(max((low + high - side) / 2, 0), length - side))
        for low, high, length in zip(box[:2], box[2:], size, strict=True)
    )
    return left, top, left + side, top + side


def square_around(mask: NDArray[np.bool_], margin: float = _MARGIN) -> tuple[int, int, int, int]:
    """The square round a mask's pixels with a margin: left, top, right, bottom; it may reach over the border."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = round(max(bottom - top, right - left) * (1 + 2 * margin))
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    return int(x), int(y), int(x + side), int(y + side)


def _on_black(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The picture under a mask of any size; a mask of another size is resized with soft edges."""
    matte = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(image, Image.new("RGB", image.size), matte)


def _visible(labels: NDArray[np.uint8], layout: PartLayout, min_share: float) -> dict[str, tuple[tuple[int, ...], int]]:
    """The labels that make each visible part, and the number of pixels that have them."""
    rules = _rules(layout)
    least = max(rules.min_pixels, min_share * labels.size)
    counts = np.bincount(labels.ravel(), minlength=len(LABELS))
    visible = {}
    for part, alternatives in rules.labels.items():
        for wanted in alternatives:
            if (area := int(counts[list(wanted)].sum())) >= least:
                visible[part] = wanted, area
                break
    return visible


def _rules(layout: str) -> _Layout:
    if layout not in _LAYOUTS:
        raise InputError(f"unknown part layout {layout!r}; known layouts are {', '.join(_LAYOUTS)}")
    return _LAYOUTS[layout]
