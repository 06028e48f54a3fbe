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
