"""Which face of a photo is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from consistentid.errors import InputError, NoFaceError, SeveralFacesError
from consistentid.faces.face import Detection

Found = TypeVar("Found", bound=Detection)

_RIVAL: Final = 0.5
"""Area of another face, as a share of the largest, from which it is unclear who is meant; smaller are bystanders."""

_LISTED: Final = 6
"""Faces that an error lists at most."""


def rivals(faces: Sequence[Found]) -> list[Found]:
    """The faces of like size of which one is meant, of all in a picture, largest first: the others are bystanders."""
    return [face for face in faces if face.area >= _RIVAL * faces[0].area]


def pick(faces: Sequence[Found], photo: str, index: int | None = None) -> Found:
    """The one face that is meant.

    Args:
        faces: of one picture, largest first.
        photo: the picture's name, for messages.
        index: which face; may be left out where one is much larger than all others.

    Raises:
        NoFaceError: there is none.
        SeveralFacesError: there are several of like size and none was chosen.
        InputError: there is no face of that index.
    """
    if not faces:
        remedy = "use a picture in which the face is larger, sharper or turned to the front"
        raise NoFaceError(f"no face found in {photo}; {remedy}")
    if index is None and len(near := rivals(faces)) > 1:
        places = "; ".join(
            f"{number}: centre ({x:.0f}, {y:.0f})"
            for number, (x, y) in enumerate(face.centre for face in near[:_LISTED])
        )
        more = f"; and {len(near) - _LISTED} more" if len(near) > _LISTED else ""
        smaller = f" beside {len(faces) - len(near)} smaller ones" if len(near) < len(faces) else ""
        raise SeveralFacesError(
            f"{len(near)} faces found in {photo}{smaller}; choose one by its index, largest first ({places}{more}),"
            f" as in {photo}#0, or crop the picture"
        )
    if not 0 <= (index or 0) < len(faces):
        raise InputError(f"no face {index} in {photo}; its faces are numbered 0 to {len(faces) - 1}, largest first")
    return faces[index or 0]


def most_alike(candidates: Sequence[NDArray[np.float32]], same_person: float) -> list[int | None]:
    """Of the faces of each photo the one that is on the others, too.

    Photos with one face say who is meant; where there is none of them, all say it together.

    Args:
        candidates: (K, D) embeddings of unit length for each photo, of any K.
        same_person: cosine from which two are taken for one person.

    Returns:
        For each photo the row of `candidates`; None where no face, or more than one, is like those on the others.
    """
    clear = [number for number, faces in enumerate(candidates) if len(faces) == 1]
    chosen: list[int | None] = []
    for number, faces in enumerate(candidates):
        others = [candidates[other] for other in (clear or range(len(candidates))) if other != number]
        if len(faces) == 1 or not others:
            chosen.append(0 if len(faces) == 1 else None)
            continue
        likeness = np.mean([(faces @ other.T).max(axis=1) for other in others], axis=0)
        alike = np.flatnonzero(likeness >= same_person)
        chosen.append(int(alike[0]) if len(alike) == 1 else None)
    return chosen
