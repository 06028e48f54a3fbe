"""Light and drawing styles laid over the finished picture."""

from __future__ import annotations

import numpy as np

from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.head import Traits
from consistentid.drawn.portraits.shapes import Array

_TONES = {"warm": (1.10, 0.98, 0.80), "cool": (0.92, 0.98, 1.07)}


def _luminance(rgb: Array) -> Array:
    grey: Array = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114
    return grey


def apply_style(canvas: Canvas, s: Traits) -> None:
    """Warm or cool light, then watercolour wash, pencil hatching or poster colours; ends in [0, 1]."""
    rgb, u, v = canvas.rgb, canvas.u, canvas.v
    if s.light in _TONES:
        rgb *= np.array(_TONES[s.light], np.float32)[:, None, None]
    if s.style == "watercolor":
        mottle = np.sin(u * 7 + 2 * np.sin(v * 5)) * np.sin(v * 8 + 2 * np.sin(u * 6))
        paper = np.array([0.98, 0.96, 0.92], np.float32)[:, None, None]
        rgb += (0.25 + 0.06 * mottle) * (paper - rgb)
    elif s.style == "pencil":
        grey = np.clip(_luminance(rgb), 0, 1)
        lines = np.sin((u + v) * 46) * (1 - grey) * 0.06
        rgb[:] = np.array([0.97, 0.95, 0.91], np.float32)[:, None, None] * (0.10 + 0.92 * grey**0.9 + lines)
    elif s.style == "poster":
        grey = _luminance(rgb)
        vivid = np.clip(grey + 1.35 * (rgb - grey), 0, 1)
        rgb[:] = (vivid - 0.5) * 1.12 + 0.5
    np.clip(rgb, 0, 1, out=rgb)
