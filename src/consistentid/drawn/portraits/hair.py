"""Hair of the head, behind and in front of the face, and beards."""

from __future__ import annotations

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import Patch, View
from consistentid.drawn.portraits.hats import CLOSED, hat_line
from consistentid.drawn.portraits.head import Head
from consistentid.drawn.portraits.people import HIDES_EARS
from consistentid.drawn.portraits.shapes import Array

SKIN, HAIR = 1, 17

_SMOOTH = ("side-parted", "bobbed", "long", "bun")


def volume(head: Head) -> float:
    """How far the hair stands off the skull."""
    style, bulk = head.p.hairstyle, float(head.p.hair_volume)
    if style in ("bald", "buzz-cut", "mohawk"):
        return 0.015
    if style == "bun":
        return 0.04 + 0.3 * bulk
    return 0.03 + bulk * (2.1 if style == "curly" else 1.0)


def _strands(patch: Patch, head: Head, factor: float = 1.0) -> Array:
    """Colour of hair (3, h, w): strands, and a band of shine where it is smooth."""
    p = head.p
    x, y = patch.x, patch.y
    angle = np.arctan((x - head.skull_x) / (1.5 - np.minimum(y, 0)))  # falls straight below the crown
    if p.hairstyle == "curly":
        streak = 1 + 0.16 * np.sin(y * 17 + 2.2 * np.sin(x * 13)) * np.sin(x * 15 + 1.7 * np.sin(y * 11))
    elif p.hairstyle == "wavy":
        streak = 1 + 0.11 * np.sin(x * 19 + 1.9 * np.sin(y * 6.5))
    elif p.hairstyle == "buzz-cut":
        streak = 1 + 0.1 * np.sin(x * 47) * np.sin(y * 47)
    else:
        streak = 1 + 0.07 * np.sin(angle * 47) + 0.05 * np.sin(angle * 83 + 1)
    if p.hairstyle in (*_SMOOTH, "wavy"):
        ring = np.sqrt((x - head.skull_x) ** 2 + (y + 0.1) ** 2) - p.face_height * 0.86
        streak = streak + 0.26 * np.exp(-((ring / 0.09) ** 2)) * (y < -0.2)
    return patch.lit(p.hair_rgb + 0.03, streak * factor)


def _cap(patch: Patch, head: Head) -> Array:
    """Distance to the outer surface of the hair on the skull."""
    p = head.p
    x, y = patch.x - head.skull_x, patch.y + 0.2
    bulk = volume(head)
    cap = shapes.ellipse(x, y, head.skull_width + bulk, p.face_height - 0.2 + bulk * 1.1)
    if p.hairstyle == "curly":
        around = np.arctan2(x, -y + 0.3)
        cap = cap - 0.07 * np.abs(np.sin(6.5 * around + 1.3)) + 0.03
    elif p.hairstyle == "short":  # tousled
        around = np.arctan2(x, -y)
        cap = cap - 0.055 * (1 - np.mod(around * 3.6 + p.parting, 1)) * (y < -0.1)
    elif p.hairstyle == "side-parted":  # the longer side stands up
        lift = np.exp(-(((x + np.sign(p.parting) * 0.32) / 0.34) ** 2)) * (y < 0)
        cap = cap - (0.05 + 0.4 * p.hair_volume) * lift
    return cap


def _under_hat(distance: Array, patch: Patch, head: Head) -> Array:
    """A closed hat leaves only the hair below it."""
    if head.s.hat in CLOSED:
        return np.maximum(distance, hat_line(head) - 0.02 - patch.y)
    return distance


def paint_back(view: View, head: Head) -> None:
    """Everything behind the head: long hair, bobs, curls and buns."""
    p = head.p
    style = p.hairstyle
    if style in ("bald", "mohawk"):
        return
    bulk = volume(head)
    reach = {
        "bobbed": 0.62 + 0.3 * p.hair_length,
        "long": 1.5 + 0.7 * p.hair_length,
        "wavy": 1.25 + 0.7 * p.hair_length,
        "curly": 0.35 + 0.5 * p.hair_length,
    }.get(style, 0.0)
    below = max(reach, p.face_height) + 0.15
    patch = view.patch(0, 0, head.skull_width + bulk + 0.45, below)
    if not patch:
        return
    x, y = patch.x - head.skull_x, patch.y
    back = _cap(patch, head)
    if reach:
        wide = head.skull_width + 0.05 + p.hair_volume * 0.9
        half = (reach + 0.3) / 2
        if style == "curly":
            curls = shapes.box(x, y + 0.3 - half, wide + 0.12, half, 0.4)
            curls = curls - 0.06 * np.abs(np.sin(y * 7 + 2)) - 0.03 * np.abs(np.sin(x * 8))
            back = shapes.union(back, curls, 0.1)
        else:
            sway = 0.075 * np.sin(y * 6.5 + np.sign(x) * 1.2) if style == "wavy" else 0.0
            flare = (0.14 if style == "bobbed" else 0.05) * np.clip(y - 0.1, 0, 1)
            curtain = shapes.box(x + sway, y + 0.3 - half, wide - 0.04 + flare, half, 0.16)
            if style == "bobbed":  # the ends turn in
                curtain = np.maximum(curtain, shapes.ellipse(x, y + 0.15, wide + 0.22, reach + 0.17))
            back = np.minimum(back, curtain)
    elif style != "bun":
        back = np.maximum(back, y - 0.42)  # the nape
    back = _under_hat(back, patch, head)
    patch.fill(back, _strands(patch, head, 0.72), HAIR)
    if style == "bun" and head.s.hat not in CLOSED:
        bx, by = head.skull_x + 0.12 * np.sign(p.parting), -p.face_height - 0.2 - 0.3 * p.hair_volume
        size = 0.27 + 0.1 * p.hair_length
        knot = view.patch(bx, by, size + 0.1, size + 0.1)
        twist = 1 + 0.1 * np.sin(np.arctan2(knot.y, knot.x) * 2 + np.sqrt(knot.x**2 + knot.y**2) * 22)
        knot.fill(shapes.ellipse(knot.x, knot.y, size, size * 0.86), knot.lit(p.hair_rgb + 0.03, twist), HAIR, rim=0.15)


def _front_line(head: Head, x: Array) -> Array:
    """Where the hair ends over the face, at every x: the hairline, or a fringe."""
    p = head.p
    across = (x - head.face_x) / head.face_width
    beyond = np.maximum(np.abs(across) - 0.84, 0)
    side = 0.4 + (0.55 + 0.35 * (1 - p.hair_length)) * (p.hairstyle in ("short", "side-parted", "bun", "buzz-cut"))
    hairline = p.hairline + 0.08 * (p.hairstyle not in ("buzz-cut", "bun", "short"))
    line: Array = hairline + 0.5 * across**2 * side + 2.2 * beyond
    if p.hairstyle in ("buzz-cut", "bun"):
        return line
    brow = p.eye_level - p.brow_gap
    if p.hairstyle == "side-parted":
        line = hairline - 0.1 + 0.42 * np.abs(across - p.parting) ** 1.2 + 1.6 * beyond
    elif p.fringe == "straight":
        jagged = 0.05 * (1 - np.abs(np.mod(x * 5.5 + p.parting, 1) * 2 - 1))
        line = np.maximum(brow - 0.1 + jagged + 0.12 * across**2, line)
    elif p.fringe == "swept":
        towards = np.sign(p.parting) or 1.0
        line = np.maximum(hairline + 0.34 * (1 - towards * across) * 0.5 + 0.05, line)
    elif p.hairstyle == "short":
        line = line + 0.07 * np.mod(x * 4.4 + p.parting, 1)
    elif p.hairstyle == "curly":
        line = line + 0.06 * np.abs(np.sin(x * 9 + 1))
    elif p.hairstyle in ("long", "wavy", "bobbed"):  # falls from a parting
        line = hairline - 0.06 + 0.36 * np.abs(across - p.parting * 0.5) ** 1.1 + 1.6 * beyond
    return line


def paint_front(view: View, head: Head) -> None:
    """Hair over the forehead, temples and, for long styles, the ears and shoulders."""
    p = head.p
    style = p.hairstyle
    if style == "bald":
        _paint_shine(view, head)
        return
    if style == "mohawk":
        _paint_mohawk(view, head)
        return
    bulk = volume(head)
    patch = view.patch(0, -0.4, head.skull_width + bulk + 0.3, p.face_height + bulk + 0.1).moved(0, 0.4)
    if patch:
        x, y = patch.x, patch.y
        front = np.maximum(_cap(patch, head), y - np.minimum(_front_line(head, x), 0.1))
        front = _under_hat(front, patch, head)
        if style != "buzz-cut":  # its shadow on the forehead
            patch.shade(patch.coverage(front - 0.05) * 0.16 * (1 if view.relief > 0.5 else 0.5))
        opacity = 0.62 if style == "buzz-cut" else 1.0
        patch.fill(front, _strands(patch, head), HAIR, alpha=opacity, outline=style != "buzz-cut", rim=0.12)
        if style == "side-parted" and head.s.hat not in CLOSED:
            cx = head.face_x + p.parting * head.face_width
            path = shapes.segment(x, y, cx, p.hairline - 0.06, head.skull_x + p.parting * 0.55, -p.face_height - 0.02,
                                  0.022)  # fmt: skip
            patch.fill(path, p.skin * 0.75, alpha=patch.coverage(front) * 0.85, outline=False)
    if style in HIDES_EARS:
        _paint_locks(view, head)


def _paint_locks(view: View, head: Head) -> None:
    """Hair that falls beside the face."""
    p = head.p
    style = p.hairstyle
    down = {
        "bobbed": 0.42 + 0.3 * p.hair_length,
        "long": 1.25 + 0.75 * p.hair_length,
        "wavy": 1.0 + 0.75 * p.hair_length,
        "curly": 0.12 + 0.45 * p.hair_length,
    }[style]
    top = -0.45
    wide = 0.13 + 0.28 * p.hair_volume + (0.06 if style in ("long", "wavy") else 0.0)
    for side in (-1, 1):
        inner = head.face_x + side * head.face_width * 0.9
        outer = head.skull_x + side * (head.skull_width + 0.04 + p.hair_volume * 0.75)
        half = max(side * (outer - inner) / 2, wide * 0.62)
        cx = outer - side * half
        patch = view.patch(cx, (top + down) / 2, half + 0.25, (down - top) / 2 + 0.1)
        if not patch:
            continue
        y = patch.y
        sway = 0.0 if style in ("long", "bobbed") else 0.06 * np.sin((y + down) * 6.5 + side)
        taper = 0.25 * np.clip(y / (down - top) + 0.1, 0, 1) if style != "bobbed" else -0.1 * np.clip(y, 0, 1)
        lock = shapes.box(patch.x + sway, y, half * (1 - taper), (down - top) / 2, min(0.13, half * 0.8))
        if style == "curly":
            lock = lock - 0.04 * np.abs(np.sin(y * 9 + side))
        whole = patch.moved(-cx, -(top + down) / 2)
        lock = _under_hat(lock, whole, head)
        patch.fill(lock, _strands(whole, head, 0.95), HAIR, rim=0.1)


def _paint_mohawk(view: View, head: Head) -> None:
    """Shaved sides and a crest of spikes."""
    p = head.p
    patch = view.patch(0, -0.6, head.skull_width + 0.2, p.face_height + 0.3).moved(0, 0.6)
    if not patch:
        return
    across = (patch.x - head.face_x) / head.face_width
    line = p.hairline + 0.55 * across**2 + 2.2 * np.maximum(np.abs(across) - 0.84, 0)
    sides = np.maximum(_cap(patch, head), patch.y - np.minimum(line, 0.1))
    sides = _under_hat(sides, patch, head)
    patch.fill(sides, patch.lit(p.hair_rgb), HAIR, alpha=0.35, outline=False)
    if head.s.hat in CLOSED:
        return
    cx = (head.face_x + head.skull_x) / 2
    x, y = patch.x - cx, patch.y + p.face_height - 0.12
    spread = np.arctan2(x, 0.75 - y)
    tall = 0.5 + 0.14 * p.hair_length
    tips = tall * (0.72 + 0.28 * (1 - np.abs(np.mod(spread * 7 + 0.5, 1) * 2 - 1)))
    crest = np.maximum(np.maximum(np.abs(x) - 0.22 - 0.26 * np.clip(-y, 0, 1), -y - tips), y - 0.3 + 4 * x * x)
    patch.fill(crest, patch.lit(p.hair_rgb + 0.03, 1 + 0.12 * np.sin(spread * 39)), HAIR)


def _paint_shine(view: View, head: Head) -> None:
    p = head.p
    patch = view.patch(head.skull_x - 0.22, -p.face_height + 0.28, 0.25, 0.16)
    if patch and head.s.hat not in CLOSED:
        shine = shapes.ellipse(patch.x, patch.y + 0.12 * patch.x, 0.2, 0.09)
        patch.tint(np.clip(-shine / 0.06, 0, 1) * 0.3 * (patch.labels == SKIN), np.minimum(p.skin + 0.35, 1))


def paint_beard(view: View, head: Head) -> None:
    """Stubble, moustache, goatee and full beard; labelled as skin, as parsers do."""
    p = head.p
    if p.beard == "none":
        return
    mx, my, width = head.mouth()
    patch = view.patch(0, 0.4, head.face_width + abs(head.face_x) + 0.15, p.face_height - 0.2).moved(0, -0.4)
    if not patch:
        return
    x, y = patch.x - mx, patch.y - my
    grain = 1 + 0.12 * np.sin(patch.x * 31 + 2 * np.sin(patch.y * 17)) * np.sin(patch.y * 23)
    hair = patch.lit(p.hair_rgb * 0.85, grain)
    upper = np.maximum(
        shapes.arc(x, y + 0.1, max(0.24, width * 0.95), -0.05, 0.06 + 0.03 * p.beard_length),
        -y - 0.17 + 0.5 * x * x,
    )
    if p.beard in ("full beard", "stubble"):
        edge = head.outline(patch)
        across = np.abs(patch.x - head.face_x) / head.face_width
        long = 0.0 if p.beard == "stubble" else 0.16 * p.beard_length
        cheek = np.maximum(edge - long * np.clip(y * 2, 0, 1), -(y + 0.08 + 0.42 * across**2.5))
        free = -shapes.ellipse(x, y - 0.02 - 0.15 * head.open, width * 1.02, 0.09 + 0.22 * head.open)
        full = np.minimum(np.maximum(cheek, free), upper)
        if p.beard == "stubble":
            shade = np.maximum(full, edge)
            patch.fill(shade, hair, SKIN, alpha=0.42 * np.clip(-shade / 0.14, 0, 1), outline=False)
        else:
            patch.fill(full, hair, SKIN, rim=0.1)
        return
    patch.fill(upper, hair, SKIN, outline=False)
    if p.beard == "goatee":
        cx, cy = head.place(0, p.face_height - 0.06, 0.35)
        chin = shapes.ellipse(patch.x - cx, patch.y - cy, 0.2, 0.2 + 0.13 * p.beard_length)
        low = -shapes.ellipse(x, y - 0.02 - 0.15 * head.open, width * 0.9, 0.1 + 0.2 * head.open)
        patch.fill(np.maximum(chin, low), hair, SKIN, outline=False)
