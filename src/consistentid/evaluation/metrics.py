"""Measures of likeness, as pure functions of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Share:
    """A share of pictures with its interval.

    Attributes:
        value: mean over all pictures.
        low, high: 95 % bootstrap interval over identities.
    """

    value: float
    low: float
    high: float


def impostor_threshold(references: Floats, genuine: Floats, far: float = 0.01) -> float:
    """The cosine that a share ``far`` of impostor pairs exceeds.

    Args:
        references: (N, D) unit vectors, one a person.
        genuine: (N, K, D) unit vectors of K other pictures of the same people.
        far: false acceptance rate.
    """
    similarity = np.einsum("nd,mkd->nmk", references, genuine)
    impostors = similarity[~np.eye(len(references), dtype=bool)]
    return float(np.quantile(impostors[~np.isnan(impostors)], 1 - far))


def accepted(references: Floats, pictures: Floats, threshold: float) -> NDArray[np.bool_]:
    """(N, K): is the picture (N, K, D) taken for its person? Pictures without a face (NaN) are not."""
    similarity = np.einsum("nd,nkd->nk", references, pictures)
    hits: NDArray[np.bool_] = np.nan_to_num(similarity, nan=-1.0) > threshold
    return hits


def share_over_identities(hits: NDArray[np.bool_], samples: int = 2000, seed: int = 0) -> Share:
    """Mean of (N, K) hits with a 95 % bootstrap interval over the N identities."""
    per_identity = hits.mean(axis=1)
    rng = np.random.default_rng(seed)
    means = per_identity[rng.integers(len(per_identity), size=(samples, len(per_identity)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(per_identity.mean()), float(low), float(high))
