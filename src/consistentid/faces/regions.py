"""Connected regions of boolean masks, with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def components(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the regions of a mask whose pixels touch by their sides.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) int32: 0 outside the mask, 1, 2, ... inside, by the first pixel of each region in reading order.
    """
    height, width = mask.shape
    # Runs of set pixels, row by row, in one flat list; a column of zeros at each end keeps the rows apart.
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1).ravel()
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # A run touches the runs of the row below that begin before it ends and end after it begins.
    stride = width + 1
    first = np.searchsorted(ends, starts + stride, side="right")
    last = np.searchsorted(starts, ends + stride, side="left")
    parent = list(range(len(starts)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for below in range(low, high):
            one, other = sorted((root(run), root(below)))
            parent[other] = one
    numbers = np.unique([root(run) for run in range(len(starts))], return_inverse=True)[1].astype(np.int32) + 1
    steps = np.zeros(height * stride + 1, np.int32)
    steps[starts], steps[ends] = numbers, -numbers
    return np.cumsum(steps[:-1], dtype=np.int32).reshape(height, stride)[:, :width]


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with everything that its outlines enclose, as filling its outer contours would give.

    Args:
        mask: (H, W) bool. Pixels that touch by a corner close an outline.

    Returns:
        (H, W) bool.
    """
    regions = components(np.pad(~mask, 1, constant_values=True))
    outside: NDArray[np.bool_] = regions[1:-1, 1:-1] == 1
    return ~outside
