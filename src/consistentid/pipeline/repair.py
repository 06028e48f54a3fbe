"""Repair: faces too small for the base are cut out with what is around them, drawn anew large, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from consistentid.faces.face import Detection

SMALL = 0.3
"""Side of a face, as a share of the base's shorter side, from which the base draws it well."""

STRENGTH = 0.6
"""How far a face is drawn anew: its pose and light stay."""

_GROWN = 1.3  # the ellipse that is drawn anew, in sizes of the face's box
_SOFT = 0.08  # of the box's side: how far its edge is blurred


@dataclass(frozen=True)
class Repaired:
    """One face that was drawn anew.

    Attributes:
        picture: its number.
        person: the number of whose face it is.
        box: (left, top, right, bottom) of the face, pixels.
        before, after: likeness; NaN where no face was found any more.
        kept: whether the new face is in the picture: it is where it is not less like.
    """

    picture: int
    person: int
    box: tuple[int, int, int, int]
    before: float
    after: float
    kept: bool

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "person": self.person,
            "box": list(self.box),
            "likeness_before": self.before,
            "likeness_after": self.after,
            "kept": self.kept,
        }


def is_small(face: Detection, native: tuple[int, int]) -> bool:
    """Whether the base draws a face of this many pixels badly."""
    return face.side < SMALL * min(native)


def face_mask(face: Detection, size: tuple[int, int], others: Sequence[Detection] = ()) -> Image.Image:
    """What of a picture is drawn anew for one face: an ellipse round it with a soft edge, without the other faces.

    Args:
        face: in a picture.
        size: width and height of that picture.
        others: faces that stay as they are.

    Returns:
        "L": 255 where it is drawn anew, 0 where nothing changes.
    """
    left, top, right, bottom = (float(value) for value in face.box)
    x, y = face.centre
    half_width, half_height = _GROWN * (right - left) / 2, _GROWN * (bottom - top) / 2
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    pen.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(max(_SOFT * face.side, 1)))
    pen = ImageDraw.Draw(mask)
    for other in others:
        pen.rectangle(tuple(float(value) for value in other.box), fill=0)
    return mask
