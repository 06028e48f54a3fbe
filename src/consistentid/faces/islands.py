"""Labels far from where the landmarks say a part must be: half of the "nose" on a chandelier."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consistentid.faces.alignment import TEMPLATE, similarity
from consistentid.faces.regions import components


class _Place(NamedTuple):
    """Where some labels belong; distances are in units of that between the eyes of a frontal face of this size.

    Attributes:
        labels: CelebAMask-HQ.
        landmarks: rows of `Detection.landmarks` they lie round; of several, the nearest counts.
        near: a region with no pixel as near as this is an island.
        far: what lies farther is none of the part even where it hangs together with it.
    """

    labels: tuple[int, ...]
    landmarks: tuple[int, ...]
    near: float
    far: float


_PLACES: Final = (  # glasses and earrings are no parts, and reach farther
    _Place(labels=(1,), landmarks=(0, 1, 2, 3, 4), near=1.2, far=2.4),  # a forehead above a headband is apart
    _Place(labels=(2, 3), landmarks=(0, 1), near=0.9, far=1.6),
    _Place(labels=(4, 5), landmarks=(0, 1), near=0.6, far=1.5),
    _Place(labels=(7, 8), landmarks=(0, 1, 2), near=2.0, far=2.8),
    _Place(labels=(10,), landmarks=(2,), near=0.8, far=1.8),
    _Place(labels=(11, 12, 13), landmarks=(3, 4), near=0.8, far=1.4),
)


def remove_islands(labels: NDArray[np.uint8], landmarks: NDArray[np.float32]) -> None:
    """Set to background, in place, what is labelled as a part of the face and lies away from it.

    Args:
        labels: (H, W) CelebAMask-HQ labels.
        landmarks: (5, 2) x, y of the face in them, in the order of `Detection.landmarks`.
    """
    scale = abs(similarity(landmarks, TEMPLATE)[0])
    if not np.isfinite(scale) or scale == 0:
        return
    unit = float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0]))) / scale
    for place in _PLACES:
        mask = np.isin(labels, place.labels)
        if not mask.any():
            continue
        y, x = np.nonzero(mask)
        away = np.full(mask.shape, np.inf, np.float32)
        away[y, x] = np.min([np.hypot(x + 0.5 - u, y + 0.5 - v) for u, v in landmarks[list(place.landmarks)]], axis=0)
        regions = components(mask & (away <= place.far * unit))
        kept = np.unique(regions[(away <= place.near * unit) & (regions > 0)])
        labels[mask & ~np.isin(regions, kept)] = 0
