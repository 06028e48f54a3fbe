"""The body below the head, and what is worn on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import WHITE, Patch, View
from consistentid.drawn.portraits.head import Head
from consistentid.drawn.portraits.shapes import Array

NECK, NECKLACE, CLOTH = 14, 15, 16  # bare arms, hands and legs are labelled as the neck is: skin, but of no face

_JEANS = np.array([0.25, 0.33, 0.50], np.float32)
_TROUSERS = np.array([0.27, 0.26, 0.29], np.float32)
_SHOES = (0.16, 0.13, 0.13)
_DARK, _LIGHT = np.array([0.13, 0.13, 0.17], np.float32), np.array(WHITE, np.float32)
_LONG_SLEEVES = ("shirt", "suit", "sweater", "hoodie")

_SHOULDER, _WAIST, _HIP, _KNEE, _FOOT = 0.42, 1.85, 2.5, 3.55, 4.75
"""Heights below the collar, in head units."""


@dataclass
class _Body:
    """Sizes in head units; y is 0 at the collar and x at the middle of the chest."""

    view: View
    head: Head

    def __post_init__(self) -> None:
        p = self.head.p
        self.top = p.face_height + 0.13
        self.shoulder = 1.02 if p.woman else 1.2
        self.neck = 0.27 if p.woman else 0.35
        self.waist = self.shoulder - (0.36 if p.woman else 0.3)
        self.hip = self.shoulder - (0.16 if p.woman else 0.26)
        self.turn = 0.22 * self.head.sin  # where the middle of the chest is seen

    def patch(self, half_x: float, top: float, bottom: float, x: float = 0.0) -> Patch:
        """The pixels between two heights, their coordinates from the middle of the collar."""
        middle = (top + bottom) / 2
        patch = self.view.patch(x, self.top + middle, half_x, (bottom - top) / 2)
        return patch.moved(-x, -middle)

    def torso(self, patch: Patch) -> Array:
        """Distance to shoulders, chest and hips."""
        ys = np.array([-0.1, 0.0, 0.1, 0.22, 0.34, 0.5, 1.0, _WAIST, _HIP, _HIP + 0.4], np.float32)
        s, n = self.shoulder, self.neck
        half = (n * 0.8, n + 0.02, n + 0.22, s * 0.72, s * 0.9, s, s - 0.1, self.waist, self.hip, self.hip)
        profile, above, below = (np.interp(patch.y + dy, ys, half).astype(np.float32) for dy in (0, -0.02, 0.02))
        slope = (below - above) / 0.04
        side = (np.abs(patch.x) - profile) / np.sqrt(1 + slope * slope)
        distance: Array = np.maximum(side, shapes.between(patch.y, -0.05, _HIP + 0.12))
        return distance


def paint_body(view: View, head: Head) -> None:
    """Neck, body, arms and legs, with the clothes of the scene."""
    p, s = head.p, head.s
    body = _Body(view, head)
    clothes = s.clothes
    rgb = s.clothes_rgb
    if clothes == "hoodie":
        hood = body.patch(1.1, -0.75, 0.6)
        if hood:
            back = shapes.ellipse(hood.x, hood.y - 0.02, 0.92, 0.56)
            hood.fill(back, hood.lit(rgb, 0.66), CLOTH, rim=0.2)
    _paint_legs(body)
    neck = body.patch(0.6, -0.85, 0.45)
    if neck:
        column = shapes.union(
            shapes.box(neck.x, neck.y + 0.2, body.neck, 0.65, 0.1),
            shapes.ellipse(neck.x, neck.y - 0.2, body.neck + 0.2, 0.2),
            0.2,
        )
        shadow = 0.74 + 0.18 * np.clip((neck.y + 0.22) / 0.3, 0, 1)
        neck.fill(column, neck.lit(p.skin, shadow), NECK)
    chest = body.patch(body.shoulder + 0.12, -0.15, _HIP + 0.2)
    if chest:
        torso = body.torso(chest)
        if clothes == "dress":
            chest.fill(torso, chest.lit(p.skin, 0.96), NECK, rim=0.25)
            _CLOTHES[clothes](body, chest, torso)
        else:
            chest.fill(torso, chest.lit(rgb), CLOTH, rim=0.35)
            _CLOTHES[clothes](body, chest, torso)
    _paint_arms(body)
    if clothes in ("sweater", "hoodie"):
        _paint_neckwear(body)
    if s.necklace:
        _paint_necklace(body)


def _accent(rgb: Array) -> Array:
    """A colour that stands out against another."""
    return _LIGHT if float(rgb.mean()) < 0.62 else _DARK * 1.6


def _inside(shape: Array, torso: Array) -> Array:
    return np.maximum(shape, torso + 0.005)


def _paint_t_shirt(body: _Body, chest: Patch, torso: Array) -> None:
    rgb = body.head.s.clothes_rgb
    x, y = chest.x - body.turn * 0.6, chest.y
    hole = shapes.ellipse(x, y + 0.04, body.neck + 0.13, 0.27)
    chest.fill(_inside(hole - 0.085, torso - 0.05), chest.lit(_accent(rgb)), CLOTH)
    chest.fill(hole, chest.lit(body.head.p.skin, 0.9), NECK, outline=False)
    angle = np.arctan2(x - body.turn * 0.5, -(y - 0.68))
    star = (
        np.sqrt((x - body.turn * 0.5) ** 2 + (y - 0.68) ** 2) - 0.15 - 0.12 * np.abs(np.mod(angle * 5 / np.pi, 2) - 1)
    )
    chest.fill(_inside(star, torso), chest.lit(_accent(rgb)), CLOTH, outline=False)


def _paint_shirt(body: _Body, chest: Patch, torso: Array) -> None:
    rgb = body.head.s.clothes_rgb
    x, y = chest.x - body.turn, chest.y
    stripes = np.abs(np.mod(chest.x / 0.21 + 0.5, 1) - 0.5) * 0.21 - 0.022
    chest.fill(_inside(stripes, torso), chest.lit(_accent(rgb)), outline=False, alpha=0.32)
    throat = np.maximum(np.abs(x) - np.clip(0.36 - y, 0, 1) * 0.62, -0.2 - y)
    chest.fill(throat, chest.lit(body.head.p.skin, 0.86), NECK, outline=False)
    placket = _inside(np.maximum(np.abs(x) - 0.095, 0.3 - y), torso)
    chest.fill(placket, chest.lit(rgb, 1.08), CLOTH, outline=False)
    for side in (-1, 1):
        line = _inside(np.maximum(np.abs(x - side * 0.095) - 0.012, 0.33 - y), torso)
        chest.fill(line, rgb * 0.55, outline=False, alpha=0.8)
    buttons = shapes.circle(x, np.mod(y - 0.5, 0.36) - 0.12, 0.045)
    chest.fill(_inside(np.maximum(buttons, 0.42 - y), torso), chest.lit(_accent(rgb)), CLOTH, outline=False)
    for side in (-1, 1):
        a = body.neck + 0.03
        wing = shapes.polygon(x, y, [(side * a * 0.8, -0.2), (side * (a + 0.17), 0.05), (side * 0.46, 0.44),
                                     (side * 0.05, 0.24)])  # fmt: skip
        chest.fill(wing - 0.02, chest.lit(np.minimum(rgb * 1.12 + 0.05, 1)), CLOTH)
        chest.fill(np.abs(wing - 0.02) - 0.012, rgb * 0.45, outline=False, alpha=0.8)


def _paint_suit(body: _Body, chest: Patch, torso: Array) -> None:
    rgb = body.head.s.clothes_rgb
    x, y = chest.x - body.turn, chest.y
    gap = np.maximum(np.abs(x) - np.clip(1.25 - y, 0, 2) * 0.36, -0.16 - y)
    chest.fill(_inside(gap, torso - 0.08), chest.lit(_LIGHT), CLOTH)
    red = float(rgb[0]) > 1.5 * float(rgb[1])
    tie_rgb = np.array([0.16, 0.22, 0.45] if red else [0.72, 0.12, 0.16], np.float32)
    knot = shapes.box(x, y - 0.08, 0.115 - 0.25 * (y - 0.08), 0.1, 0.03)
    blade = np.maximum(np.abs(x) - 0.065 - 0.075 * np.clip(y - 0.15, 0, 1), shapes.between(y, 0.15, 1.2))
    stripes = 1 - 0.3 * (np.mod((x + y) * 5, 1) < 0.35)
    chest.fill(np.maximum(blade, gap), chest.lit(tie_rgb, stripes), CLOTH)
    chest.fill(knot, chest.lit(tie_rgb, 0.9), CLOTH)
    for side in (-1, 1):
        collar = shapes.polygon(x, y, [(side * body.neck * 0.85, -0.2), (side * (body.neck + 0.1), 0.02),
                                       (side * 0.27, 0.28), (side * 0.07, 0.04)])  # fmt: skip
        chest.fill(collar, chest.lit((1.0, 1.0, 1.0)), CLOTH)
        chest.fill(np.abs(collar) - 0.01, (0.5, 0.5, 0.55), outline=False, alpha=0.7)
        n = body.neck
        lapel = shapes.polygon(x, y, [(side * (n + 0.06), -0.02), (side * (n + 0.24), 0.1), (side * 0.66, 0.46),
                                      (side * 0.5, 0.5), (side * 0.56, 0.62), (0.0, 1.28)])  # fmt: skip
        chest.fill(lapel, chest.lit(rgb, 0.74), CLOTH)
        chest.fill(np.abs(lapel) - 0.014, rgb * 0.35, outline=False, alpha=0.9)
    front = _inside(np.maximum(np.abs(x) - 0.014, 1.28 - y), torso)
    chest.fill(front, rgb * 0.4, outline=False)
    for at in (1.5, 1.95):
        chest.fill(shapes.circle(x, y - at, 0.055), _accent(rgb), CLOTH, outline=False)


def _paint_sweater(body: _Body, chest: Patch, torso: Array) -> None:
    rgb = body.head.s.clothes_rgb
    x, y = chest.x - body.turn, chest.y
    accent = chest.lit(_accent(rgb))
    zigzag = np.abs(np.mod(x / 0.3 + 0.25, 1) * 2 - 1) * 0.16
    for at in (0.42, 0.66, 1.25, 1.5):
        chest.fill(_inside(np.abs(y - at - zigzag + 0.08) - 0.05, torso), accent, CLOTH, outline=False)
    for at in (0.95,):
        dots = np.maximum(np.abs(np.mod(x / 0.3 + 0.25, 1) - 0.5) * 0.3 - 0.055, np.abs(y - at) - 0.05)
        chest.fill(_inside(dots, torso), accent, CLOTH, outline=False)
    hem = np.maximum(torso, _HIP - 0.12 - y)
    chest.fill(hem, chest.lit(rgb, 0.78 + 0.1 * np.sin(x * 40)), CLOTH, outline=False)


def _paint_hoodie(body: _Body, chest: Patch, torso: Array) -> None:
    rgb = body.head.s.clothes_rgb
    x, y = chest.x - body.turn, chest.y
    pocket = shapes.polygon(x, y, [(-0.35, 1.4), (0.35, 1.4), (0.62, 1.8), (0.62, 2.25), (-0.62, 2.25), (-0.62, 1.8)])
    chest.fill(_inside(pocket, torso), chest.lit(rgb, 0.86), CLOTH)
    chest.fill(_inside(np.abs(pocket) - 0.018, torso), rgb * 0.5, outline=False, alpha=0.8)


def _paint_dress(body: _Body, chest: Patch, torso: Array) -> None:
    s = body.head.s
    x, y = chest.x - body.turn * 0.6, chest.y
    neckline = 0.48 - 0.14 * np.abs(np.sin(np.clip(x, -0.62, 0.62) * 5)) + 0.25 * np.clip(np.abs(x) - 0.62, 0, 1)
    bodice = np.maximum(torso, neckline - y)
    chest.fill(bodice, chest.lit(s.clothes_rgb), CLOTH, rim=0.25)
    straps = np.abs(np.abs(x) - 0.56 - 0.1 * y) - 0.075
    chest.fill(_inside(np.maximum(straps, y - 0.55), torso), chest.lit(s.clothes_rgb, 0.92), CLOTH)
    belt = np.maximum(torso, np.abs(y - _WAIST) - 0.1)
    chest.fill(belt, chest.lit(_accent(s.clothes_rgb)), CLOTH, outline=False)


_CLOTHES = {
    "t-shirt": _paint_t_shirt,
    "shirt": _paint_shirt,
    "suit": _paint_suit,
    "sweater": _paint_sweater,
    "hoodie": _paint_hoodie,
    "dress": _paint_dress,
}


def _paint_neckwear(body: _Body) -> None:
    """What lies over the collar: the roll of a sweater, the hood of a hoodie and its cords."""
    s = body.head.s
    rgb = s.clothes_rgb
    if s.clothes == "sweater":
        patch = body.patch(body.neck + 0.25, -0.4, 0.3)
        if patch:
            roll = shapes.box(patch.x, patch.y + 0.06, body.neck + 0.09, 0.23, 0.1)
            ribs = 0.86 + 0.16 * np.sin(patch.x * 34)
            patch.fill(roll, patch.lit(rgb, ribs), CLOTH, rim=0.08)
            fold = np.maximum(np.abs(patch.y - 0.09) - 0.018, roll)
            patch.fill(fold, rgb * 0.5, outline=False, alpha=0.7)
        return
    patch = body.patch(1.0, -0.45, 1.1)
    if not patch:
        return
    x, y = patch.x - body.turn * 0.5, patch.y
    ring = np.maximum(
        shapes.ellipse(x, y + 0.02, 0.80 + 0.1 * (not body.head.p.woman), 0.44),
        -shapes.ellipse(x, y + 0.16, body.neck + 0.12, 0.36),
    )
    ring = np.maximum(ring, -y - 0.36)
    patch.fill(ring, patch.lit(rgb, 0.84), CLOTH, rim=0.16)
    inner = np.maximum(np.abs(shapes.ellipse(x, y + 0.16, body.neck + 0.14, 0.38)) - 0.022, -y - 0.2)
    patch.fill(inner, rgb * 0.42, outline=False, alpha=0.85)
    cord_rgb = _accent(rgb)
    for side in (-1, 1):
        cord = shapes.segment(x, y, side * 0.2, 0.2, side * 0.26, 0.78, 0.035)
        patch.fill(cord, patch.lit(cord_rgb), CLOTH, outline=False)
        end = shapes.box(x - side * 0.265, y - 0.82, 0.05, 0.08, 0.02)
        patch.fill(end, cord_rgb * 0.75 + 0.1, CLOTH, outline=False)


def _paint_necklace(body: _Body) -> None:
    patch = body.patch(0.75, -0.1, 0.75)
    if not patch:
        return
    x, y = patch.x - body.turn * 0.6, patch.y
    string = np.abs(shapes.ellipse(x, y + 0.1, body.neck + 0.2, 0.56)) - 0.03
    patch.fill(np.maximum(string, 0.0 - y), (0.96, 0.86, 0.55), NECKLACE, outline=False)
    patch.fill(shapes.circle(x, y - 0.5, 0.085), (0.99, 0.93, 0.72), NECKLACE)
    patch.fill(shapes.circle(x + 0.02, y - 0.48, 0.03), (1.0, 1.0, 1.0), outline=False)


def _joints(body: _Body, side: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Elbow and hand of an arm."""
    s = body.shoulder
    kind = body.head.s.arms
    if kind == "hips":
        return (side * (s + 0.55), 1.4), (side * (body.hip + 0.02), 2.2)
    if kind == "waving" and side == (1 if body.head.sin >= 0 else -1):
        return (side * (s + 0.45), 1.2), (side * (s + 0.72), 0.02)
    return (side * (s + 0.14), 1.5), (side * (s + 0.06), 2.55)


def _paint_arms(body: _Body) -> None:
    p, s = body.head.p, body.head.s
    thick = 0.225 if p.woman else 0.27
    rgb = s.clothes_rgb
    for side in (-1, 1):
        (ex, ey), (hx, hy) = _joints(body, side)
        sx, sy = side * (body.shoulder - thick * 0.72), _SHOULDER + 0.12
        xs, ys = (sx, ex, hx), (sy, ey, hy)
        middle, reach = (min(xs) + max(xs)) / 2, (max(xs) - min(xs)) / 2 + 0.55
        patch = body.patch(reach, min(ys) - 0.6, max(ys) + 0.55, middle)
        if not patch:
            continue
        x, y = patch.x, patch.y
        upper = shapes.segment(x, y, sx, sy, ex, ey, thick, thick * 0.8)
        lower = shapes.segment(x, y, ex, ey, hx, hy, thick * 0.8, thick * 0.6)
        arm = shapes.union(upper, lower, 0.05)
        hand = shapes.union(
            shapes.ellipse(x - hx, y - hy - (0.12 if hy > ey else -0.16), 0.17, 0.22),
            shapes.segment(x, y, hx, hy, hx - side * 0.17, hy + (0.14 if hy > ey else -0.2), 0.06),
            0.04,
        )
        skin = patch.lit(p.skin, 0.95)
        if s.clothes in _LONG_SLEEVES:
            patch.fill(hand, skin, NECK, rim=0.08)
            if s.clothes == "suit":
                patch.fill(shapes.segment(x, y, hx, hy, hx, hy - 0.02 * np.sign(hy - ey), thick * 0.66), WHITE, CLOTH)
            patch.fill(arm, patch.lit(rgb, 0.97), CLOTH, rim=0.2)
            if s.clothes in ("sweater", "hoodie", "shirt"):
                along = np.hypot(x - hx, y - hy)
                cuff = np.maximum(arm, along - 0.3)
                patch.fill(cuff, patch.lit(rgb, 0.78), CLOTH, outline=False)
            continue
        patch.fill(shapes.union(arm, hand, 0.05), skin, NECK, rim=0.15)
        if s.clothes == "t-shirt":
            t = 0.62
            sleeve = shapes.segment(x, y, sx, sy, sx + (ex - sx) * t, sy + (ey - sy) * t, thick * 1.1, thick * 1.12)
            cut = ((x - sx) * (ex - sx) + (y - sy) * (ey - sy)) / np.hypot(ex - sx, ey - sy)
            long = t * float(np.hypot(ex - sx, ey - sy))
            sleeve = np.maximum(sleeve, cut - long)
            patch.fill(sleeve, patch.lit(rgb, 0.97), CLOTH, rim=0.2)
            patch.fill(np.maximum(sleeve, long - 0.11 - cut), patch.lit(_accent(rgb)), CLOTH, outline=False)


def _paint_legs(body: _Body) -> None:
    p, s = body.head.p, body.head.s
    patch = body.patch(1.6, _WAIST - 0.1, _FOOT + 0.5)
    if not patch:
        return
    x, y = patch.x, patch.y
    rgb = s.clothes_rgb
    patch.shade_ground(shapes.ellipse(x, y - _FOOT - 0.22, 1.25, 0.17))
    bare = s.clothes == "dress"
    cloth = {"suit": rgb * 0.9, "t-shirt": _JEANS, "hoodie": _JEANS * 0.8}.get(s.clothes, _TROUSERS)
    for side in (-1, 1):
        shoe = shapes.union(
            shapes.ellipse(x - side * 0.52, y - _FOOT - 0.08, 0.3, 0.17),
            shapes.box(x - side * 0.42, y - _FOOT + 0.04, 0.17, 0.14, 0.05),
            0.08,
        )
        patch.fill(shoe, _SHOES, CLOTH)
        thigh = shapes.segment(x, y, side * body.hip * 0.52, _HIP, side * 0.43, _KNEE, body.hip * 0.5, 0.29)
        shin = shapes.segment(x, y, side * 0.43, _KNEE, side * 0.42, _FOOT - 0.05, 0.29, 0.2 if bare else 0.26)
        leg = shapes.union(thigh, shin, 0.08)
        if bare:
            patch.fill(leg, patch.lit(p.skin, 0.95), NECK, rim=0.15)
        else:
            patch.fill(np.maximum(leg, y - _FOOT - 0.02), patch.lit(cloth, 0.95), CLOTH, rim=0.18)
    if bare:
        flare = body.waist + 0.42 * np.clip(y - _WAIST, 0, 3)
        hem = _KNEE - 0.1 + 0.05 * np.sin(x * 8)
        skirt = np.maximum((np.abs(x) - flare) * 0.92, shapes.between(y, _WAIST - 0.1, hem))
        folds = 1 + 0.1 * np.sin(x / np.maximum(flare, 0.1) * 11)
        patch.fill(skirt, patch.lit(rgb, folds), CLOTH, rim=0.15)
    else:
        hips = shapes.box(x, y - _HIP - 0.05, body.hip, 0.32, 0.15)
        patch.fill(hips, patch.lit(cloth), CLOTH, outline=False)
