"""Hats: brimmed hat, cap, beanie, crown and headband."""

from __future__ import annotations

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import WHITE, Patch, View
from consistentid.drawn.portraits.head import Head

HAT = 18

CLOSED = ("hat", "cap", "beanie")
"""Those that leave nothing of the hair above them to be seen."""

_GOLD = np.array([0.97, 0.78, 0.22], np.float32)


def hat_line(head: Head) -> float:
    """Height on the head at which a hat sits."""
    found: float = -head.p.face_height + 0.40 + 0.05 * head.nod
    return found


def _middle(head: Head) -> float:
    """Where the middle of a hat is seen: between the face and the back of the head."""
    middle: float = (head.skull_x + head.face_x) / 2
    return middle


def paint_hat(view: View, head: Head) -> None:
    """What the scene's person wears on the head, if anything."""
    if head.s.hat == "none":
        return
    half = head.skull_width + 0.07 + head.p.hair_volume * 0.35
    patch = view.patch(_middle(head), hat_line(head), half * 1.75, 1.25)
    if patch:
        _PAINTERS[head.s.hat](patch, head, half)


def _contrast(rgb: np.ndarray, dark: float = 0.3) -> np.ndarray:
    """A colour to be told from another: dark on light ones and light on dark ones."""
    return rgb * dark if float(rgb.mean()) > 0.3 else rgb * 0.3 + 0.62


def _paint_brimmed(patch: Patch, head: Head, half: float) -> None:
    """A tall pinched top, a ribbon, and a brim far wider than the head."""
    rgb = head.s.hat_rgb
    x, y = patch.x, patch.y
    wide = half * 1.62
    patch.shade(patch.coverage(shapes.ellipse(x, y - 0.12, half * 1.1, 0.2)) * 0.28)
    slope = half * (0.93 + 0.16 * y)
    top = np.maximum(shapes.superellipse(x, y + 0.02, slope, 0.74, 4.0), y)
    top = np.maximum(top, -shapes.ellipse(x, y + 0.80, half * 0.3, 0.12))
    patch.fill(top, patch.lit(rgb), HAT, rim=0.3)
    patch.fill(np.maximum(top + 0.012, shapes.between(y, -0.26, 0.05)), patch.lit(_contrast(rgb)), HAT, outline=False)
    curve = y - 0.02 + 0.16 * (x / wide) ** 2
    brim = shapes.ellipse(x, curve, wide, 0.15)
    patch.fill(brim, patch.lit(rgb, 0.94), HAT)
    under = np.maximum(brim + 0.03, 0.045 - curve)
    patch.fill(under, patch.lit(rgb, 0.62), HAT, outline=False)


def _paint_cap(patch: Patch, head: Head, half: float) -> None:
    """A round top of panels with a badge, and a peak before the forehead that turns with the head."""
    rgb = head.s.hat_rgb
    x, y = patch.x, patch.y
    front = 0.7 * head.sin
    dome = np.maximum(shapes.superellipse(x, y - 0.02, half * 1.0, 0.66, 2.2), y - 0.06)
    patch.fill(dome, patch.lit(rgb), HAT, rim=0.3)
    seam_rgb = rgb * 0.6
    for at in (-0.62, 0.0, 0.62):
        bend = at * half + (front * 0.6 - at * half) * np.clip(-y / 0.66, 0, 1) ** 2
        seam = np.maximum(np.abs(x - front * 0.4 - bend) - 0.012 - patch.view.pixel * 0.1, dome + 0.02)
        patch.fill(seam, seam_rgb, outline=False, alpha=0.7)
    button = shapes.ellipse(x - front * 0.6, y + 0.66, 0.085, 0.05)
    patch.fill(button, patch.lit(_contrast(rgb, 0.55)), HAT)
    badge = shapes.circle(x - front * 0.95, (y + 0.29) * 0.95, 0.155)
    patch.fill(badge, WHITE if rgb.min() < 0.75 else (0.2, 0.25, 0.45), HAT)
    patch.fill(badge + 0.07, rgb * 0.75, outline=False)
    # The peak: a crescent that hangs over the forehead.
    wide = half * (0.92 - 0.12 * abs(head.sin))
    px = x - front * 1.05
    patch.shade(patch.coverage(shapes.ellipse(px, y - 0.16, wide * 0.95, 0.2)) * 0.3)
    peak = np.maximum(shapes.ellipse(px, y - 0.02, wide, 0.31), -(y - 0.15 + 0.22 * (px / wide) ** 2))
    whole = np.maximum(shapes.ellipse(px, y - 0.02, wide, 0.31), -(y - 0.01))
    patch.fill(whole, patch.lit(rgb, 0.72), HAT)
    patch.fill(peak, patch.lit(rgb, 0.5), HAT, outline=False)


def _paint_beanie(patch: Patch, head: Head, half: float) -> None:
    """Knitted ribs, a thick turned-up cuff and a pompom."""
    rgb = head.s.hat_rgb
    x, y = patch.x, patch.y
    dome = np.maximum(shapes.superellipse(x, y - 0.04, half, 0.72, 2.0), y - 0.04)
    inner = np.clip(1 - (y / 0.76) ** 2, 0.05, 1) ** 0.5
    across = np.clip(x / (half * inner), -1, 1)
    ribs = np.sin(np.arcsin(across) * 15 + 3 * head.sin)
    patch.fill(dome, patch.lit(rgb, 0.92 + 0.13 * ribs), HAT, rim=0.3)
    tuft = shapes.circle(x, y + 0.76, 0.2)
    fuzz = 0.02 * np.abs(np.sin(np.arctan2(x, y + 0.76) * 4.5))
    pompom = np.array(WHITE, np.float32) if rgb.min() < 0.75 else np.array([0.75, 0.25, 0.25], np.float32)
    patch.fill(tuft - fuzz, patch.lit(pompom, 1 - 6 * fuzz), HAT, rim=0.12)
    cuff = shapes.box(x, y - 0.02, half * 1.04, 0.155, 0.1)
    ribs = np.sin(np.arcsin(np.clip(x / (half * 1.05), -1, 1)) * 19)
    patch.shade(patch.coverage(cuff - 0.07) * 0.2)
    patch.fill(cuff, patch.lit(_contrast(rgb, 0.62), 0.95 + 0.12 * ribs), HAT, rim=0.08)


def _paint_crown(patch: Patch, head: Head, half: float) -> None:
    """Gold, five points with balls, jewels in the hat's colour."""
    wide = half * 0.97
    x, y = patch.x, patch.y + 0.06
    step = np.mod((x / wide + 1) * 2 + 0.5 + 0.8 * head.sin, 1) - 0.5
    outer = y - 0.1 * (x / wide) ** 2 * -1
    tips = 0.24 + 0.34 * (1 - 2 * np.abs(step))
    body = np.maximum(np.maximum(np.abs(x) - wide - 0.10 * np.clip(-y, 0, 1), outer - 0.08), -(y + tips))
    gloss = 1 + 0.14 * np.sin(x * 7 + 1)
    patch.fill(body, patch.lit(_GOLD, gloss), HAT)
    balls = shapes.circle(step * wide / 2, y + 0.6, 0.062)
    patch.fill(np.maximum(balls, np.abs(x) - wide - 0.12), patch.lit(_GOLD * 1.04), HAT)
    band = np.maximum(body + 0.01, np.abs(outer + 0.03) - 0.1)
    patch.fill(band, patch.lit(_GOLD, 0.78), HAT, outline=False)
    gems = shapes.ellipse(step * wide / 2, outer + 0.03, 0.085, 0.075)
    patch.fill(np.maximum(gems, body + 0.02), head.s.hat_rgb, HAT, outline=False)
    glint = shapes.circle(step * wide / 2 + 0.03, outer + 0.055, 0.024)
    patch.fill(np.maximum(glint, body), (1.0, 1.0, 1.0), outline=False, alpha=0.8)


def _paint_headband(patch: Patch, head: Head, _half: float) -> None:
    """A narrow striped band around the forehead, the hair free above it."""
    rgb = head.s.hat_rgb
    bulk = 0.03 + 0.75 * head.p.hair_volume * (head.p.hairstyle not in ("bald", "buzz-cut", "mohawk", "bun"))
    wide = head.skull_width + bulk
    x, y = patch.x, patch.y
    shift = 0.25 * head.sin
    curve = y - 0.02 - 0.1 * (1 - ((x - shift) / wide) ** 2)
    reach = head.p.face_height - 0.2 + bulk
    edge = shapes.ellipse(x + _middle(head) - head.skull_x, y + hat_line(head) + 0.2, wide + 0.03, reach)
    band = np.maximum(np.abs(curve) - 0.115, np.maximum(edge, np.abs(x) - wide))
    patch.fill(band, patch.lit(rgb), HAT)
    stripe = np.maximum(np.abs(curve) - 0.033, band + 0.01)
    patch.fill(stripe, patch.lit(np.array(WHITE, np.float32) if rgb.min() < 0.75 else rgb * 0.4), HAT, outline=False)


_PAINTERS = {
    "hat": _paint_brimmed,
    "cap": _paint_cap,
    "beanie": _paint_beanie,
    "crown": _paint_crown,
    "headband": _paint_headband,
}
