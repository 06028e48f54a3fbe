"""From a photo to a square portrait of one person in it: what CLIP, and with it the adapter, sees of a photo.

CLIP's processor takes the middle square of whatever it gets. Of a full-length photo that is the belt, so the square is
cut round the face first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
from PIL import Image

from consistentid.faces.analyzer import distances
from consistentid.faces.crop import cut, cut_labels
from consistentid.faces.face import Box, Detection, Face
from consistentid.faces.upright import turned, turned_face, turned_labels

Found = TypeVar("Found", bound=Detection)

_PERSON: Final = 4.0
"""Side of the square, as a multiple of the face's box: head and shoulders."""

_ABOVE: Final = 0.42
"""Share of the square above the middle of the face: there is more of a person below the face than above it."""

_WHOLE: Final = 0.75
"""A square picture stays as it is from this share of its side on that would be cut out."""

_CLOSE: Final = 2.3
"""Side of the square that shows little but a head, as a multiple of its face's box."""

_HEAD: Final = 1.5
"""Size of a head as a multiple of its face's box."""


def square_round(face: Detection, size: tuple[int, int]) -> Box:
    """The square with a person's head and shoulders, the face in its upper half where the borders allow it.

    Args:
        face: in a picture of
        size: width, height.

    Returns:
        A square inside the picture, four times the face's box or as much as fits. Only where the whole face does not
        fit into such a square it has the length of the face, and reaches over the borders.
    """
    side = max(min(round(_PERSON * face.side), *size), round(face.side))
    places = []
    for low, high, share, length in zip(face.box[:2], face.box[2:], (0.5, _ABOVE), size, strict=True):
        first, last = sorted((0, length - side))
        start = min(max(float(low + high) / 2 - share * side, first), last)
        places.append(round(min(max(start, float(high) - side), float(low))))  # the face first, then the borders
    left, top = places
    return left, top, left + side, top + side


def moved(face: Found, box: Box, size: int | None = None) -> Found:
    """A face in the pixels of `box` of its picture, resized to so many pixels a side; `parsing` stays as it is."""
    corner = np.array(box[:2], np.float32)
    scale = np.float32(1 if size is None else size / (box[2] - box[0]))
    return replace(face, box=(face.box - np.tile(corner, 2)) * scale, landmarks=(face.landmarks - corner) * scale)


def portrait(image: Image.Image, face: Face, others: Sequence[Detection] = ()) -> tuple[Image.Image, Face]:
    """A square portrait cut out of a picture, and the face in it.

    A square picture of which three quarters would be cut stays whole: CLIP sees all of it. A portrait that lies on its
    side or stands on its head is turned by quarters.

    Args:
        image: RGB picture.
        face: whose portrait.
        others: faces of other people: their heads are blackened.

    Returns:
        RGB picture, square; the face, its parsing of that picture's size.
    """
    box = square_round(face, image.size)
    if image.width == image.height and box[2] - box[0] >= _WHOLE * image.width:
        box = 0, 0, *image.size
    shown = moved(replace(face, parsing=cut_labels(face.parsing, box)), box)
    alone = _alone(cut(image, box), shown, [moved(other, box) for other in others])
    quarters = face.quarters
    upright = turned_face(shown, quarters, alone.size)
    return turned(alone, quarters), replace(upright, parsing=turned_labels(shown.parsing, quarters))


def head(image: Image.Image, face: Detection, others: Sequence[Detection] = ()) -> Image.Image:
    """The square with a face, its hair and its collar, as captions describe people; other people's heads are blackened.

    Args:
        image: RGB picture.
        face: whose head.
        others: faces of other people.

    Returns:
        RGB picture, square; its edges are drawn out where it reaches over the picture's.
    """
    x, y = face.centre
    half = _CLOSE * face.side / 2
    box = (round(x - half), round(y - half), round(x + half), round(y + half))
    return _alone(cut(image, box), moved(face, box), [moved(other, box) for other in others])


def _alone(image: Image.Image, face: Detection, others: Sequence[Detection]) -> Image.Image:
    """The picture with the heads of others in black, as far as they are nearer to them than to this face."""
    whole = (0, 0, *image.size)
    own = distances(face, whole)
    hidden = np.zeros(own.shape, bool)
    for other in others:
        away = distances(other, whole)
        # half the root of the box's area is the radius of a face
        hidden |= (away < _HEAD / 2) & (away < own)
    if not hidden.any():
        return image
    pixels = np.array(image)
    pixels[hidden] = 0
    return Image.fromarray(pixels)
