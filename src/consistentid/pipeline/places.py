"""Where the people of a picture are: regions made of faces that were found, and whose region a face is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from consistentid.adapter.regions import Regions
from consistentid.faces.face import Detection

_SHOULDERS = 1.5
"""Reach of a person on either side of their face's middle, in widths of the face's box."""

_HAIR = 0.75
"""Reach above the box, in heights of it."""


def regions_of(faces: Sequence[Detection], size: tuple[int, int]) -> Regions:
    """A region for each of the faces: head and shoulders down to the edge of the picture, parted from its neighbours.

    Args:
        faces: of different people.
        size: width and height of the picture.
    """
    boxes = []
    for face in faces:
        (left, top, right, bottom), (x, _) = map(float, face.box), face.centre
        reach = _SHOULDERS * (right - left)
        box = [x - reach, top - _HAIR * (bottom - top), x + reach, float(size[1])]
        for other in faces:
            if other is face:
                continue
            their_left, their_top, their_right, their_bottom = map(float, other.box)
            # a border half-way between two faces, across the direction in which they are apart
            if their_left >= right:
                box[2] = min(box[2], (right + their_left) / 2)
            elif their_right <= left:
                box[0] = max(box[0], (their_right + left) / 2)
            elif other.centre[1] > face.centre[1]:
                box[3] = min(box[3], max((bottom + their_top) / 2, face.centre[1] + 1))
            else:
                box[1] = max(box[1], min((their_bottom + top) / 2, face.centre[1] - 1))
        limits = (size[0], size[1], size[0], size[1])
        boxes.append([min(max(value / limit, 0.0), 1.0) for value, limit in zip(box, limits, strict=True)])
    return Regions.read(boxes)


def faces_in(regions: Regions, faces: Sequence[Detection], size: tuple[int, int]) -> list[int | None]:
    """The number of the face in each person's region: the largest of those whose middle lies there; None without one.

    Args:
        regions: of the people.
        faces: of a picture, largest first.
        size: width and height of the picture.
    """
    found: list[int | None] = [None] * len(regions)
    for number, there in enumerate(_there(regions, faces, size)):
        person = int(there.argmax())
        if there[person] > 0 and found[person] is None:
            found[person] = number
    return found


def _there(regions: Regions, faces: Sequence[Detection], size: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """For each face (P,) how much of the pixel at its middle each region covers."""
    cover: NDArray[np.float32] = regions.cover(size[1], size[0]).numpy()
    for face in faces:
        x, y = (min(max(int(value), 0), limit - 1) for value, limit in zip(face.centre, size, strict=True))
        yield cover[:, y, x]


def faces_outside(regions: Regions, faces: Sequence[Detection], size: tuple[int, int]) -> list[int]:
    """The numbers of the faces whose middle lies in nobody's region: bystanders.

    Args:
        regions, size: see `faces_in`.
        faces: of a picture, in any order.
    """
    return [number for number, there in enumerate(_there(regions, faces, size)) if not there.any()]
