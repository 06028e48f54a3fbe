"""Which face of a picture is whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


def assign(similarity: NDArray[np.floating[Any]]) -> list[int | None]:
    """The face of each person, so that the sum of similarities is largest (Hungarian method).

    Args:
        similarity: (P, F) of P people and F faces.

    Returns:
        P numbers of faces, no face twice; None for people beyond the number of faces.
    """
    found: list[int | None] = [None] * len(similarity)
    if similarity.size:
        for person, face in zip(*linear_sum_assignment(similarity, maximize=True), strict=True):
            found[int(person)] = int(face)
    return found


def similarities(people: Sequence[NDArray[np.float32]], faces: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(P, F) cosines of embeddings of unit length."""
    if not people or not faces:
        return np.zeros((len(people), len(faces)), np.float32)
    return np.asarray(np.stack(people) @ np.stack(faces).T, np.float32)
