"""Measures of pictures of several people together, as pure functions of face embeddings.

| measure | of one picture |
|---|---|
| `right_number` | 1 where as many faces are found as people were asked for |
| `similarity`, `least` | cosine of each person to their face, mean and least over the people; 0 without a face |
| `elsewhere` | mean cosine of each person to the other people's faces: what blending raises |
| `swapped` | 1 where the faces in the places asked for are more like the people in exchanged places |
| `confused` | share of the people whose own face is more like another person of the picture |
| `verified` | 1 where every person is accepted by their face at a threshold |
| `copy_paste` | how much more people's faces are like the very pictures that were given than like others of them |
| `bystander_change` | mean 1 - cosine of each face that is nobody's, before and after the people came |

Faces and people are matched by the Hungarian method, once for each picture. A person without a face counts as 0 or as a
failure, so that a tool does not gain by drawing fewer faces. Where a measure needs two people, places, other pictures
of them, or bystanders, and there are none, it is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistentid.evaluation.metrics import Estimate, estimate
from consistentid.faces.matching import assign

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Together:
    """The measures of one picture, see above."""

    right_number: float
    similarity: float
    least: float
    elsewhere: float
    swapped: float
    confused: float
    verified: float
    copy_paste: float
    bystander_change: float


def measure(
    alike: Floats,
    faces: int,
    threshold: float,
    places: Sequence[int | None] | None = None,
    others: Floats | None = None,
    bystanders: tuple[Floats, Floats] | None = None,
) -> Together:
    """One picture.

    Args:
        alike: (P, F) cosines of P people and the F faces that were found.
        faces: F, also where P is 0.
        threshold: the cosine from which a face is taken for a person; NaN = not known.
        places: for each person the number of the face in their place, None where there is none; None = no places.
        others: (P, F) mean cosines of other pictures of each person, which were not given, and the faces; NaN where
            there are none.
        bystanders: embeddings of unit length, (K, D) of the faces that are nobody's before, and (F, D) of all faces
            now.
    """
    people = len(alike)
    numbers = assign(alike)
    own = np.array([0.0 if face is None else alike[person, face] for person, face in enumerate(numbers)])
    taken = [(person, face) for person, face in enumerate(numbers) if face is not None]
    foreign = [alike[other, face] for person, face in taken for other in range(people) if other != person]
    mistaken = [
        alike[person, face] <= max((alike[other, face] for other in range(people) if other != person), default=-np.inf)
        for person, face in taken
    ]
    return Together(
        right_number=float(faces == people),
        similarity=float(own.mean()),
        least=float(own.min()),
        elsewhere=float(np.mean(foreign)) if foreign else np.nan,
        swapped=_swapped(alike, places),
        confused=float(np.sum(mistaken) + people - len(taken)) / people if people > 1 else np.nan,
        verified=np.nan if np.isnan(threshold) else float(len(taken) == people and bool((own > threshold).all())),
        copy_paste=_copied(alike, others, taken),
        bystander_change=_changed(bystanders, [face for _, face in taken]),
    )


def _copied(alike: Floats, others: Floats | None, taken: Sequence[tuple[int, int]]) -> float:
    if others is None:
        return np.nan
    nearer = np.array([float(alike[pair] - others[pair]) for pair in taken])
    known = nearer[~np.isnan(nearer)]
    return float(known.mean()) if len(known) else np.nan


def _changed(bystanders: tuple[Floats, Floats] | None, taken: Sequence[int]) -> float:
    """Of the faces that are there now, those of the people are no bystanders."""
    if bystanders is None:
        return np.nan
    before, now = bystanders
    return bystander_change(before, np.delete(now, list(taken), axis=0))


def _swapped(alike: Floats, places: Sequence[int | None] | None) -> float:
    """Whether the faces, where they are, would be more alike if people changed places."""
    if places is None or len(places) < 2:
        return np.nan
    there = [face for face in places if face is not None]
    if len(there) < len(places):
        return 0.0  # a face that is missing is no swap: other measures count it
    among = alike[:, there]
    best = [face for face in assign(among) if face is not None]
    return float(sum(among[person, face] for person, face in enumerate(best)) > np.trace(among))


def bystander_change(before: Floats, after: Floats) -> float:
    """Mean of 1 - cosine of each bystander's face before and after people were put beside them; NaN without any.

    Args:
        before: (K, D) embeddings of unit length of the faces that are nobody's.
        after: (L, D) those of the picture afterwards; a bystander who is gone counts as 1.
    """
    if not len(before):
        return np.nan
    alike = before @ after.T if len(after) else np.zeros((len(before), 0))
    numbers = assign(alike)
    return float(np.mean([1.0 if face is None else 1 - alike[one, face] for one, face in enumerate(numbers)]))


def summary(
    pictures: Sequence[Together], pairs: NDArray[Any], samples: int = 2000, seed: int = 0
) -> dict[str, Estimate]:
    """Every measure with its 95 % interval, bootstrapped over pairs (or groups) of people.

    Args:
        pictures: the measures of K pictures.
        pairs: (K,) which people are on each.
        samples, seed: of the bootstrap.
    """
    return {
        item.name: estimate(np.array([getattr(one, item.name) for one in pictures]), pairs, samples, seed)
        for item in fields(Together)
    }
