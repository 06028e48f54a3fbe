"""Bringing faces to the standard position in which recognisers know them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEMPLATE: Final[NDArray[np.float32]] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
) + np.float32(0.5)
"""(5, 2) landmarks of an aligned face of 112 pixels: ArcFace's, which count from the first pixel's centre."""

SIZE: Final = 112
"""Side of an aligned face, pixels."""


def similarity(source: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[complex, complex]:
    """The rotation, uniform scale and shift that best take points to points, by least squares.

    Args:
        source, target: (K, 2) x, y; K >= 2, not all source points equal.

    Returns:
        a, b so that with points as complex numbers ``target = a * source + b``.
    """
    p, q = (np.asarray(points, np.float64) @ (1, 1j) for points in (source, target))
    p_mean, q_mean = p.mean(), q.mean()
    p, q = p - p_mean, q - q_mean
    a = np.vdot(p, q) / np.vdot(p, p)
    return complex(a), complex(q_mean - a * p_mean)


def way_back(landmarks: NDArray[np.float32]) -> tuple[complex, complex]:
    """The way from an aligned face back to the picture: with points as complex numbers ``a * aligned + b``.

    Args:
        landmarks: (5, 2) x, y pixels of the picture, in the order of `Detection.landmarks`.
    """
    a, b = similarity(landmarks, TEMPLATE)
    return 1 / a, -b / a


def align(image: Image.Image, landmarks: NDArray[np.float32]) -> Image.Image:
    """The face upright at its standard place and size.

    Args:
        image: RGB picture.
        landmarks: (5, 2) x, y pixels, in the order of `Detection.landmarks`.

    Returns:
        RGB picture of `SIZE` x `SIZE`; black where the face leaves the picture.
    """
    back, shift = way_back(landmarks)
    # Large faces are first averaged down by a whole factor: sampling single pixels of them would alias.
    factor = max(1, int(abs(back)))
    corners = [back * complex(x, y) + shift for x in (0, SIZE) for y in (0, SIZE)]
    left, top = (max(0, int(min(values)) - factor) for values in _axes(corners))
    right, bottom = (
        min(limit, int(max(values)) + 2 * factor) for values, limit in zip(_axes(corners), image.size, strict=True)
    )
    if left >= right or top >= bottom:
        return Image.new("RGB", (SIZE, SIZE))
    region = image.reduce(factor, box=(left, top, right, bottom))
    back, shift = back / factor, (shift - complex(left, top)) / factor
    coefficients = (back.real, -back.imag, shift.real, back.imag, back.real, shift.imag)
    return region.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)


def _axes(points: list[complex]) -> tuple[list[float], list[float]]:
    return [point.real for point in points], [point.imag for point in points]
