"""Pictures that are too much alike. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE: Final = 32
_KEPT: Final = 8

_WAVES: Final[NDArray[np.float32]] = np.cos(np.pi / _SIDE * np.outer(np.arange(_KEPT), np.arange(_SIDE) + 0.5)).astype(
    np.float32
)
"""(8, 32) the lowest frequencies of the discrete cosine transform."""

NEAR: Final = 4
"""Bits in which the hashes of near-duplicates differ at most: copies that were resized or compressed again."""

_BANDS: Final = NEAR + 1  # two hashes that differ in no more bits than this less one are equal in one band


def perceptual_hash(image: Image.Image) -> int:
    """64 bits that stay when a picture is resized or compressed: signs of its lowest frequencies about their median."""
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)
    waves = (_WAVES @ grey @ _WAVES.T).ravel()
    bits = waves > np.median(waves[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: Sequence[int]) -> dict[int, int]:
    """Index of each picture that is nearly an earlier one -> the earliest of all that are nearly alike.

    Hashes are compared only with those that are equal in one of five bands, so that a million take a minute.
    """
    values = np.array(hashes, np.uint64)
    first = np.arange(len(values))
    cuts = np.linspace(0, 64, _BANDS + 1).astype(int)
    for low, high in pairwise(cuts.tolist()):
        band = (values >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=band[order][:1] + np.uint64(1)))
        for group in np.split(order, starts[1:]):
            for place, index in enumerate(group[1:], 1):
                near = np.bitwise_count(values[group[:place]] ^ values[index]) <= NEAR
                if near.any():
                    first[index] = min(first[index], group[np.argmax(near)])
    for index in range(len(first)):  # in order, so that a chain ends at its earliest picture
        first[index] = first[first[index]]
    return {index: int(other) for index, other in enumerate(first) if other != index}
