"""Light and drawing styles laid over the finished picture."""

from __future__ import annotations

import torch
from torch import Tensor

from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.face import Traits, is_one_of
from consistentid.drawn.portraits.scenes import LIGHTS, STYLES


def _luminance(rgb: Tensor) -> Tensor:
    return (rgb * torch.tensor([0.299, 0.587, 0.114], device=rgb.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def apply_style(canvas: Canvas, s: Traits, u: Tensor, v: Tensor) -> None:
    """Warm or cool light, then watercolour wash, pencil hatching or poster colours."""
    rgb = canvas.rgb
    warm, cool = is_one_of(s.light, LIGHTS, "warm"), is_one_of(s.light, LIGHTS, "cool")
    tone = torch.stack([1 + 0.10 * warm - 0.12 * cool, 1 - 0.02 * warm - 0.03 * cool, 1 - 0.20 * warm + 0.10 * cool], 1)
    rgb *= tone.view(-1, 3, 1, 1)

    rows = torch.nonzero(s.style == STYLES.index("watercolor")).flatten()
    if len(rows):
        mottle = torch.sin(u * 7 + 2 * torch.sin(v * 5)) * torch.sin(v * 8 + 2 * torch.sin(u * 6))
        wash = (0.26 + 0.05 * mottle)[:, None]
        rgb[rows] += wash * (torch.tensor([0.98, 0.96, 0.92], device=u.device).view(1, 3, 1, 1) - rgb[rows])

    rows = torch.nonzero(s.style == STYLES.index("pencil")).flatten()
    if len(rows):
        grey = _luminance(rgb[rows]).clamp(0, 1)
        lines = torch.sin((u + v) * 46)[:, None] * (1 - grey) * 0.06
        paper = torch.tensor([0.97, 0.95, 0.91], device=u.device).view(1, 3, 1, 1)
        rgb[rows] = paper * (0.10 + 0.92 * grey**0.9 + lines)

    rows = torch.nonzero(s.style == STYLES.index("poster")).flatten()
    if len(rows):
        grey = _luminance(rgb[rows])
        vivid = (grey + 1.35 * (rgb[rows] - grey)).clamp(0, 1)
        rgb[rows] = (vivid - 0.5) * 1.12 + 0.5
