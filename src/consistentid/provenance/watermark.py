"""An invisible mark in the pixels that says: made by a model. It is what is left when metadata was stripped.

A spread-spectrum mark (Cox et al., "Secure Spread Spectrum Watermarking for Multimedia", 1997) of a single message,
"this is marked": a tile of `TILE` pixels, repeated over the picture, holds sine waves of middle frequencies with
pseudo-random phases. It is added to red, green and blue alike, more of it where the picture is busy. The detector needs
no original: it measures the picture's own phases at the tile's frequencies, undoes the known ones and asks whether the
rest agree with one place at which the tile may lie; it does so for many sizes, and for the mirrored picture.

How often an unmarked picture passes for a marked one is not a guess. The phases were drawn evenly and independently of
any picture. So for whatever unmarked picture the agreement z is a sum of independent numbers, of which Hoeffding's
lemma says P(z >= t) <= exp(-t^2 / 2); with all places, sizes and mirrors that are tried counted, `FALSE_POSITIVES`
bounds the share of keys by which a given picture would be taken for marked. What pictures then show is measured by
benchmarks/watermark.py.

The phases are public: everybody may check, and somebody who wants to can remove the mark, or put it into a photograph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

TILE = 128
"""Side of the repeated tile, pixels of the picture as it was made."""

FALSE_POSITIVES = 1e-6
"""Bound on the probability that an unmarked picture is taken for a marked one."""

SIZES = (0.3, 2.0)
"""How far a picture may have been scaled since."""

_Number = TypeVar("_Number", bound=np.generic)

_KEY = b"consistentid: made by a model, 1"
_BAND = (10, 32)  # waves per tile: lower ones are seen, higher ones do not survive halving
_SLOPE = 0.5  # higher waves are weaker by this power, as they are in pictures and in JPEG's tables
_FLAT, _BUSY, _MOST = 1.2, 0.05, 3.0  # strength in grey levels: where nothing is; for each of the local deviation; ever
_NEIGHBOURS = 9  # side of the area, pixels, whose deviation says how busy a place is
_WINDOW, _SEARCHED = 2048, 768  # side of the middle of a large picture that is looked at; in which sizes are searched
_REFINED = 8  # sizes that are looked at more closely
_SHARES = {"untouched": 0.25, "shifted": 0.25, "scaled": 0.5}  # of the false positives


@dataclass(frozen=True)
class Detection:
    """What is known of the mark in a picture.

    Attributes:
        chance: bound on the probability that an unmarked picture agrees so well with the mark; at most 1.
        scale: size of the picture where it agrees best, in sizes that it had when it was made.
        mirrored: whether it does so left for right.
    """

    chance: float
    scale: float
    mirrored: bool

    @property
    def found(self) -> bool:
        """Whether the picture carries the mark."""
        return self.chance <= FALSE_POSITIVES


def embed(image: Image.Image, where: NDArray[np.bool_] | None = None) -> Image.Image:
    """The picture with the mark. The same pixels give the same pixels, on every machine.

    Args:
        image: RGB.
        where: (H, W), the pixels that are marked; all others stay as they are. All by default.
    """
    rgb = np.asarray(image.convert("RGB"))
    height, width = rgb.shape[:2]
    busy = np.sqrt(_variance((rgb.astype(np.int64) @ np.array([299, 587, 114])) // 1000))
    strength = np.minimum(_FLAT + _BUSY * busy, _MOST)
    if where is not None:
        strength = strength * where
    rows, columns = -(-height // TILE), -(-width // TILE)
    mark = np.rint(strength * np.tile(_tile(), (rows, columns))[:height, :width])
    return Image.fromarray(np.clip(rgb + mark[..., None], 0, 255).astype(np.uint8))


def detect(image: Image.Image) -> Detection:
    """Whether a picture carries the mark, also when it was cut, scaled (`SIZES`), mirrored or compressed since.

    Of pictures beyond 2048 pixels the middle is looked at. Takes about two seconds of a core where no mark is found.
    """
    whole = _whitened(_middle(np.asarray(image.convert("L")), _WINDOW))
    best = _better(*_compare(whole, 1.0))
    if best.found:
        return best
    part = _middle(whole, _SEARCHED)
    searched = list(_scales(*SIZES, step=3 / max(part.shape)))
    closer = 1 + 6 * math.ceil(max(whole.shape) / max(part.shape))  # sizes round each of those that agree best
    count = len(searched) + _REFINED * closer
    first: list[tuple[float, float]] = []
    for scale in searched:
        found = _better(*_compare(part, scale, count))
        best = _better(best, found)
        if best.found:
            return best
        first.append((found.chance, scale))
    for _, scale in sorted(first)[:_REFINED]:
        width = 3 / max(part.shape) * scale
        for near in np.linspace(scale * (1 - width), scale * (1 + width), closer):
            best = _better(best, *_compare(whole, float(near), count))
        if best.found:
            break
    return best


def _better(*found: Detection) -> Detection:
    return min(found, key=lambda one: one.chance)


def _scales(low: float, high: float, step: float) -> Iterator[float]:
    """Sizes from one to another; of larger pictures the same waves are fewer, so their steps are larger, too."""
    scale = low
    while scale <= high:
        yield scale
        scale *= 1 + step * scale


def _compare(white: NDArray[np.float32], scale: float, count: int = 0) -> tuple[Detection, ...]:
    """How well a picture agrees with the mark at one of `count` sizes, or at its own, as it is and mirrored."""
    rows, columns, phases = _waves()
    spectrum = _spectrum(white, scale)
    there = np.hypot(rows, columns) < 0.48 * TILE * scale  # waves that a picture of this size can hold
    found = []
    for mirrored in (False, True):
        values = np.where(there, spectrum[rows, -columns if mirrored else columns], 0)
        weights = np.sqrt(np.abs(values))
        total = math.sqrt(float((weights**2).sum()) / 2)
        if not total:
            found.append(Detection(1.0, scale, mirrored))
            continue
        agreement = np.zeros((TILE, TILE), np.complex128)
        agreement[rows, columns] = np.exp(1j * (np.angle(values) - phases)) * weights
        z = np.fft.ifft2(agreement).real * TILE**2 / total
        tried = {"scaled" if count else "shifted": (float(z.max()), 2 * (count or 1) * TILE**2)}
        if not count and not mirrored:
            tried["untouched"] = (float(z[0, 0]), 1)
        chance = min(
            tests / _SHARES[name] * math.exp(-(max(highest, 0) ** 2) / 2) for name, (highest, tests) in tried.items()
        )
        found.append(Detection(min(chance, 1.0), scale, mirrored))
    return tuple(found)


@cache
def _waves() -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Waves per tile, downwards and to the right, and the phase of each: half the plane, as pictures are real.

    Without those along the axes, where pictures hold edges and JPEG its blocks.
    """
    low, high = _BAND
    rows, columns = np.mgrid[1 : high + 1, -high : high + 1]
    inside = (np.hypot(rows, columns) >= low) & (np.hypot(rows, columns) <= high) & (columns != 0)
    rows, columns = rows[inside], columns[inside]
    # not of a generator of numpy's, whose numbers may change with its version
    digits = np.frombuffer(hashlib.shake_256(_KEY).digest(2 * len(rows)), "<u2")
    return rows, columns, digits * (2 * np.pi / 65536)


@cache
def _tile() -> NDArray[np.float64]:
    """(TILE, TILE) of deviation 1, in 64ths, so that every machine has the same."""
    rows, columns, phases = _waves()
    half = np.zeros((TILE, TILE), np.complex128)
    half[rows, columns] = np.hypot(rows, columns) ** -_SLOPE * np.exp(1j * phases)
    tile = np.fft.ifft2(half).real
    rounded: NDArray[np.float64] = np.rint(tile / tile.std() * 64) / 64
    return rounded


def _variance(grey: NDArray[np.int64]) -> NDArray[np.float64]:
    """Variance round each pixel, of whole numbers: nothing is rounded until the last division."""
    count = _NEIGHBOURS**2
    sums, squares = _sums(grey), _sums(grey**2)
    variance: NDArray[np.float64] = (count * squares - sums**2) / count**2
    return variance


def _sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
    half, n = _NEIGHBOURS // 2, _NEIGHBOURS
    total = np.pad(np.pad(values, half, "edge").cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums: NDArray[np.int64] = total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]
    return sums


def _middle(values: NDArray[_Number], side: int) -> NDArray[_Number]:
    top, left = (max(length - side, 0) // 2 for length in values.shape)
    return values[top : top + side, left : left + side]


def _whitened(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture without what is large in it, every place about equally strong, so that no edge outshouts the mark."""
    values = grey.astype(np.float32)
    rest = values - uniform_filter(values, _NEIGHBOURS, mode="nearest")
    power = uniform_filter(rest * rest, 2 * _NEIGHBOURS - 1, mode="nearest")
    deviation = np.sqrt(np.maximum(power, 0))  # running sums end a little below nothing
    white: NDArray[np.float32] = np.clip(rest / (deviation + 1.5), -3, 3)
    return white


def _spectrum(white: NDArray[np.float32], scale: float) -> NDArray[np.complex64]:
    """Fourier coefficients at the tile's frequencies: rows from 0, columns from 0 with the negative ones last."""
    high, (height, width) = _BAND[1], white.shape
    turn = -2 * np.pi / (TILE * scale)
    down = turn * np.outer(np.arange(high + 1), np.arange(height))
    along = turn * np.outer(np.arange(width), np.r_[0 : high + 1, -high:0])
    folded = np.concatenate([np.cos(down), np.sin(down)]).astype(np.float32) @ white
    spectrum: NDArray[np.complex64] = (folded[: high + 1] + 1j * folded[high + 1 :]) @ np.exp(1j * along).astype(
        np.complex64
    )
    return spectrum
