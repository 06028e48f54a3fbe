"""Pictures that are too much alike, and faces that do not belong together. Pure functions of arrays."""

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


def strangers(embeddings: NDArray[np.float32], same_person: float) -> list[int]:
    """Which faces are not of the person that most of them show.

    A face is of the person when its cosines with the others that are have a mean of at least `same_person`. The mean,
    since among very many pictures a stranger is by chance like some.

    Args:
        embeddings: (N, D) of unit length.
        same_person: cosine of two embeddings from which they are taken for one person.

    Returns:
        Indices, in order; empty for fewer than three faces, of which none is the odd one.
    """
    if len(embeddings) < 3:
        return []
    likeness = embeddings @ embeddings.T
    # The face that is like most others is of the person, and so are, to begin with, those it is like.
    core = likeness[np.argmax((likeness >= same_person).sum(axis=1))] >= same_person
    others = core[None, :] & ~np.eye(len(core), dtype=bool)
    mean = np.where(others, likeness, 0).sum(axis=1) / np.maximum(others.sum(axis=1), 1)
    return np.flatnonzero(mean < same_person).tolist()
