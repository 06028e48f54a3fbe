"""Signed-distance shapes: negative inside, in the units of the coordinates. All arguments broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Of float32, as everything that is painted; sums with Python numbers stay so."""
Number = Array | float


def ellipse(x: Array, y: Array, rx: Number, ry: Number) -> Array:
    """Ellipse at the origin; first-order distance, exact enough near the edge."""
    qx, qy = x / rx, y / ry
    k0 = np.sqrt(qx * qx + qy * qy + 1e-9)
    k1 = np.sqrt((qx / rx) ** 2 + (qy / ry) ** 2 + 1e-9)
    distance: Array = k0 * (k0 - 1) / k1
    return distance


def circle(x: Array, y: Array, radius: Number) -> Array:
    """Circle at the origin."""
    distance: Array = np.sqrt(x * x + y * y) - radius
    return distance


def box(x: Array, y: Array, hx: Number, hy: Number, radius: float = 0.0) -> Array:
    """Axis-aligned box of half sizes hx, hy with rounded corners."""
    qx, qy = np.abs(x) - hx + radius, np.abs(y) - hy + radius
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
    distance: Array = outside + np.minimum(np.maximum(qx, qy), 0) - radius
    return distance


def segment(x: Array, y: Array, x0: Number, y0: Number, x1: Number, y1: Number, r0: float, r1: float = -1.0) -> Array:
    """Capsule around the segment (x0, y0)-(x1, y1), tapering from radius r0 to r1 where that is given."""
    dx, dy = x1 - x0, y1 - y0
    t = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    px, py = x - x0 - t * dx, y - y0 - t * dy
    return np.sqrt(px * px + py * py) - (r0 if r1 < 0 else r0 + t * (r1 - r0))


def arc(x: Array, y: Array, half_width: float, bend: float, thickness: Number) -> Array:
    """Stroke along y = bend * (1 - (x / half_width)^2), tapering towards both ends."""
    t = np.clip(x / half_width, -1, 1)
    slope = 2 * bend / half_width * t
    across = (y - bend * (1 - t * t)) / np.sqrt(1 + slope * slope)
    along = np.maximum(np.abs(x) - half_width, 0)
    distance: Array = np.sqrt(across * across + along * along) - thickness * (1.1 - t * t)
    return distance


def between(y: Array, top: Number, bottom: Number) -> Array:
    """Band between two curves given at every column."""
    return np.maximum(top - y, y - bottom)


def superellipse(x: Array, y: Array, rx: Number, ry: Number, exponent: float) -> Array:
    """Rounded box |x/rx|^n + |y/ry|^n = 1; rx may vary with y."""
    q = np.abs(x / rx) ** exponent + np.abs(y / ry) ** exponent + 1e-9
    return (q ** (1 / exponent) - 1) * ((rx + ry) / 2)


def polygon(x: Array, y: Array, points: Sequence[tuple[float, float]]) -> Array:
    """Any simple polygon, given by its corners in turn."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), 1e9, np.float32)
    inside = np.zeros(nearest.shape, bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        dx, dy = bx - ax, by - ay
        px, py = x - ax, y - ay
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
        np.minimum(nearest, (px - t * dx) ** 2 + (py - t * dy) ** 2, out=nearest)
        if dy:
            crossed = ((y >= ay) != (y >= by)) & (px < py * (dx / dy))
            inside ^= crossed
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def union(a: Array, b: Array, blend: float = 0.0) -> Array:
    """Both shapes, melted into one another over a distance of ``blend``."""
    if not blend:
        return np.minimum(a, b)
    h = np.maximum(blend - np.abs(a - b), 0)
    distance: Array = np.minimum(a, b) - h * h / (4 * blend)
    return distance
