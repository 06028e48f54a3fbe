"""Whether two faces are of one person, by the cosine of their embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def impostor_threshold(impostors: Floats, far: float = 0.01) -> float:
    """The cosine that a share `far` of impostor pairs exceeds; NaN where there are fewer than ``1 / far`` pairs.

    Args:
        impostors: cosines of pairs of different people, any shape; NaN is left out.
        far: false acceptance rate.
    """
    known = impostors[~np.isnan(impostors)]
    return float(np.quantile(known, 1 - far)) if len(known) * far >= 1 else float("nan")


def accepted(similarities: Floats, threshold: float) -> Floats:
    """1 where a picture is taken for its person, else 0; a face that was not found is not. NaN for a NaN threshold."""
    return np.full(similarities.shape, np.nan) if np.isnan(threshold) else (similarities > threshold).astype(np.float64)


def outliers(
    embeddings: NDArray[np.float32], same_person: float, weights: NDArray[np.float32] | None = None
) -> list[int]:
    """Which faces are not of the person that most of them show.

    A face is of the person when it is like a quarter of the others that are. To ask for one would let strangers in
    among many, for each is by chance like some; to ask for all would refuse an unusual pose.

    Args:
        embeddings: (N, D) of unit length, N > 0.
        same_person: cosine of two embeddings from which they are taken for one person.
        weights: (N,), how much each face counts for who is meant; all alike by default.

    Returns:
        Indices, in order; empty when all faces are of one person, and all when no two of several belong together.
    """
    alike = embeddings @ embeddings.T >= same_person
    np.fill_diagonal(alike, True)
    # The face that is like most others is of the person, and so are, to begin with, those it is like.
    middle = np.argmax(alike.sum(axis=1) if weights is None else alike @ weights)
    others = alike[middle] & ~np.eye(len(alike), dtype=bool)
    odd = (alike & others).sum(axis=1) < others.sum(axis=1) / 4
    odd[middle] = odd.sum() == len(odd) - 1 > 0
    return np.flatnonzero(odd).tolist()
