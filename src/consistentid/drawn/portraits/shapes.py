"""Signed-distance shapes: negative inside, in the units of the coordinates. All arguments broadcast."""

from __future__ import annotations

import torch
from torch import Tensor

Number = Tensor | float


def ellipse(x: Tensor, y: Tensor, rx: Number, ry: Number) -> Tensor:
    """Ellipse at the origin; first-order distance, exact enough near the edge."""
    k0 = torch.sqrt((x / rx) ** 2 + (y / ry) ** 2 + 1e-9)
    k1 = torch.sqrt((x / (rx * rx)) ** 2 + (y / (ry * ry)) ** 2 + 1e-9)
    return k0 * (k0 - 1) / k1


def box(x: Tensor, y: Tensor, hx: Number, hy: Number, radius: Number = 0.0) -> Tensor:
    """Axis-aligned box of half sizes hx, hy with rounded corners."""
    qx, qy = x.abs() - hx + radius, y.abs() - hy + radius
    return torch.sqrt(qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2) + torch.maximum(qx, qy).clamp(max=0) - radius


def segment(x: Tensor, y: Tensor, x0: Number, y0: Number, x1: Number, y1: Number, radius: Number) -> Tensor:
    """Capsule around the segment (x0, y0)-(x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    t = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
    return torch.sqrt((x - x0 - t * dx) ** 2 + (y - y0 - t * dy) ** 2 + 1e-9) - radius


def arc(x: Tensor, y: Tensor, half_width: Number, bend: Number, thickness: Number) -> Tensor:
    """Stroke along y = bend * (1 - (x / half_width)^2), tapering towards both ends."""
    t = (x / half_width).clamp(-1, 1)
    slope = 2 * bend * t / half_width
    across = (y - bend * (1 - t * t)).abs() / torch.sqrt(1 + slope * slope)
    along = (x.abs() - half_width).clamp(min=0)
    return torch.sqrt(across**2 + along**2) - thickness * (1.1 - t * t)


def between(y: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """Band between two curves given at every column."""
    return torch.maximum(top - y, y - bottom)


def superellipse(x: Tensor, y: Tensor, rx: Number, ry: Number, exponent: Number) -> Tensor:
    """Rounded box |x/rx|^n + |y/ry|^n = 1; rx may vary with y."""
    q = ((x / rx).abs() ** exponent + (y / ry).abs() ** exponent + 1e-9) ** (1 / exponent)
    return (q - 1) * (rx + ry) / 2
