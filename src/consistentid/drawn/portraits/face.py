"""How the features of a face are painted."""

from __future__ import annotations

import math

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import INK, WHITE, Patch, View
from consistentid.drawn.portraits.head import Head
from consistentid.drawn.portraits.shapes import Array

SKIN, BROWS, EYES, EARS, EARRING, NOSE, INNER_MOUTH, UPPER_LIP, LOWER_LIP = 1, (2, 3), (4, 5), (7, 8), 9, 10, 11, 12, 13

_GOLD = (0.95, 0.76, 0.22)


def paint_skull(view: View, head: Head) -> None:
    """The head behind the face, seen when it turns and where hair does not hide it."""
    p = head.p
    patch = view.patch(0, -0.2, head.skull_width + 0.3, p.face_height)
    x, y = patch.x - head.skull_x, patch.y
    skull = shapes.ellipse(x, y, head.skull_width * 0.99, p.face_height - 0.22)
    jaw = shapes.segment(x, y, -0.2 * head.sin, 0.2, 0.3 * head.sin, 0.6, p.face_width * 0.5)
    patch.fill(shapes.union(skull, jaw, 0.2), patch.lit(p.skin, 0.93), SKIN)


def paint_ears(view: View, head: Head) -> None:
    """Both ears, with an earring where the scene has them."""
    p = head.p
    size = p.ear_size
    for side, label in zip((-1, 1), EARS, strict=True):
        x, y = head.place(side * p.face_width * 1.02, p.eye_level + 0.14, -0.06)
        patch = view.patch(x, y, size * 1.1 + 0.1, size * 1.6 + 0.15)
        if not patch:
            continue
        cos, sin = math.cos(side * p.ear_angle), math.sin(side * p.ear_angle)
        ex, ey = cos * patch.x + sin * patch.y, cos * patch.y - sin * patch.x
        shell = shapes.ellipse(ex, ey + size * 0.2, size * 0.66, size * 0.8)
        lobe = shapes.circle(ex + side * size * 0.14, ey - size * 0.6, size * 0.36)
        ear = shapes.union(shell, lobe, size * 0.5)
        patch.fill(ear, patch.lit(p.skin, 0.96), label, rim=0.07)
        inner = shapes.ellipse(ex + side * 0.1 * size, ey + size * 0.12, size * 0.36, size * 0.52)
        patch.fill(inner, p.skin * 0.72, alpha=0.75, outline=False)
        patch.fill(
            shapes.ellipse(ex + side * 0.22 * size, ey, size * 0.2, size * 0.34), patch.lit(p.skin, 0.92), outline=False
        )
        if head.s.earrings:
            ring = shapes.circle(ex + side * size * 0.14, ey - size * 1.12, 0.085)
            patch.fill(ring, _GOLD, EARRING)
            patch.fill(shapes.circle(ex + side * size * 0.14 + 0.02, ey - size * 1.12 + 0.03, 0.03), WHITE, None,
                       alpha=0.8, outline=False)  # fmt: skip


def paint_face(view: View, head: Head) -> Patch:
    """Skin of the face, blush, freckles, mole and the lines of age; returns the patch of the face."""
    p = head.p
    patch = view.patch(0, 0, head.face_width + abs(head.face_x) + 0.1, p.face_height + 0.1)
    edge = head.outline(patch)
    patch.fill(edge, patch.lit(p.skin), SKIN, rim=0.26)
    if not patch:
        return patch
    inside = patch.coverage(edge)
    x, y = patch.x, patch.y
    red = p.skin * 0.62 + np.array([0.40, 0.10, 0.11], np.float32)
    for side in (-1, 1):
        cx, cy = head.place(side * p.face_width * 0.56, p.eye_level + p.nose_length * 0.92, 0.42)
        cheek = np.exp(-(((x - cx) / 0.2) ** 2) - ((y - cy) / 0.15) ** 2)
        patch.tint(inside * cheek * (p.blush * 0.6 + 0.14 * max(head.smile, 0.0)), red)
    if p.freckles:
        _paint_freckles(patch, head, inside)
    if p.mole:
        mx, my = head.place(p.mole_x * p.face_width, p.mole_y, 0.45)
        patch.fill(shapes.circle(x - mx, y - my, 0.05), p.skin * 0.3, alpha=inside, outline=False)
    old = min(max((p.age - 0.45) * 1.9, 0.0), 1.0) * 0.75
    if old > 0:
        _paint_lines(patch, head, inside * old)
    chin_x, chin_y = head.place(0, p.face_height - 0.2, 0.4)
    chin = shapes.arc(x - chin_x, y - chin_y, 0.13, 0.03, 0.012)
    patch.fill(chin, p.skin * 0.7, alpha=inside * 0.35, outline=False)
    return patch


def _paint_freckles(patch: Patch, head: Head, inside: Array) -> None:
    p = head.p
    cx, cy = head.place(0, p.eye_level + p.nose_length * 0.75, 0.6)
    x, y = patch.x - cx, patch.y - cy
    cell_x, cell_y = x / 0.085, y / 0.085
    ix, iy = np.floor(cell_x), np.floor(cell_y)
    jitter = np.abs(np.modf(np.sin(ix * 12.99 + iy * 78.23) * 437.58)[0])
    dx, dy = cell_x - ix - 0.3 - 0.4 * jitter, cell_y - iy - 0.7 + 0.4 * jitter
    dots = np.sqrt(dx * dx + dy * dy) * 0.085 - 0.024
    zone = np.clip(1.4 - (x / 0.5) ** 2 - (y / 0.17) ** 2, 0, 1) * (jitter > 0.25)
    patch.fill(dots, p.skin * 0.6, alpha=inside * zone, outline=False)


def _paint_lines(patch: Patch, head: Head, strength: Array) -> None:
    p = head.p
    x, y = patch.x, patch.y
    thin = 0.012 + patch.view.pixel * 0.2
    mx, my, width = head.mouth()
    dark = p.skin * 0.58
    for side in (-1, 1):
        fold = shapes.segment(x - mx, y - my, side * 0.17, -p.mouth_level * 0.9, side * (width + 0.1), 0.03, thin)
        patch.fill(fold, dark, alpha=strength, outline=False)
        ex, ey = head.eye(side)
        bag = shapes.arc(x - ex, y - ey - p.eye_height - 0.07, p.eye_width * 0.8, 0.04, thin)
        patch.fill(bag, dark, alpha=strength * 0.8, outline=False)
        for lean in (-0.07, 0.05):
            cx = ex + side * (p.eye_width * head.squeeze(side * p.eye_spacing) + 0.05)
            foot = shapes.segment(x - cx, y - ey, 0, lean * 0.4, side * 0.08, lean, thin * 0.8)
            patch.fill(foot, dark, alpha=strength * 0.8, outline=False)
    for k in (0, 1, 2):
        cx, cy = head.place(0, p.eye_level - p.brow_gap - 0.13 - 0.09 * k, 0.5)
        line = shapes.arc(x - cx, y - cy, (0.32 - 0.05 * k) * head.cos, -0.025, thin)
        patch.fill(line, dark, alpha=strength * 0.7, outline=False)


def paint_nose(view: View, head: Head) -> None:
    """Bridge, tip, wings and nostrils."""
    p = head.p
    tip_x, tip_y = head.tip()
    root_x, root_y = head.place(0, p.eye_level - 0.03, 0.52)
    middle_y = (tip_y + root_y) / 2
    patch = view.patch(0, middle_y, max(abs(tip_x), abs(root_x)) + p.nose_width + 0.25, (tip_y - root_y) / 2 + 0.14)
    if not patch:
        return
    x, y = patch.x, patch.y + middle_y
    t = np.clip((y - root_y) / (tip_y - root_y), 0, 1)
    line = root_x + (tip_x - root_x) * t
    half = p.nose_bridge + (p.nose_width * 0.8 - p.nose_bridge) * t**2.4
    bridge = np.maximum(np.abs(x - line) - half, shapes.between(y, root_y, tip_y))
    dx, dy = x - tip_x, y - tip_y
    ball = 0.08 + 0.055 * p.nose_tip
    tip = shapes.ellipse(dx, dy, ball, ball * 0.9)
    # The wing on the far side hides behind the tip.
    shift = -0.25 * head.sin * p.nose_width
    wings = shapes.ellipse(np.abs(dx - shift) - p.nose_width * 0.74, dy - 0.005, p.nose_width * 0.4, 0.062)
    nose = shapes.union(shapes.union(bridge, wings, 0.05), tip, 0.04)
    warm = p.skin * np.array([1.0, 0.93, 0.91], np.float32)
    # The side away from the light, or from where the head looks, is dark.
    away = -1.0 if head.s.light == "right" or (head.s.light != "left" and head.sin > 0.05) else 1.0
    plane = np.clip(away * (x - line) / np.maximum(half, 0.03), 0, 1.2)
    patch.fill(nose, patch.lit(warm, 1 - 0.24 * plane * (0.5 + 0.5 * t)), NOSE, alpha=0.3 + 0.7 * t, outline=False)
    under = np.maximum(shapes.ellipse(dx - shift / 2, dy - 0.05, p.nose_width * 0.98, 0.062), 0.035 - dy)
    patch.fill(under, p.skin * 0.62, alpha=0.7, outline=False)
    for side in (-1, 1):
        wing_x = shift + side * p.nose_width * 0.74
        curve = shapes.circle(dx - wing_x, dy - 0.005, 0.062)
        rim = np.maximum(np.abs(curve) - 0.012, -side * (dx - wing_x - side * p.nose_width * 0.12))
        patch.fill(np.maximum(rim, -0.03 - dy), p.skin * 0.5, alpha=0.8, outline=False)
        hole = shapes.ellipse(
            dx - shift * 0.7 - side * p.nose_width * 0.42, dy - 0.045, p.nose_width * 0.2 + 0.012, 0.026
        )
        patch.fill(hole, p.skin * 0.26, outline=False)
    shine = shapes.ellipse(dx + away * ball * 0.3, dy + ball * 0.3, ball * 0.32, ball * 0.26)
    patch.fill(shine, (1.0, 1.0, 1.0), alpha=0.28, outline=False)
    ridge = shapes.segment(x, y, root_x + away * p.nose_bridge, root_y + 0.08,
                           tip_x + away * ball * 0.9, tip_y - ball * 0.7, 0.01 + view.pixel * 0.2)  # fmt: skip
    patch.fill(ridge, p.skin * 0.55, alpha=0.45 + 0.4 * (view.ink > 0), outline=False)


def paint_mouth(view: View, head: Head) -> None:
    """Lips, the line between them, and teeth and tongue where the mouth is open."""
    p = head.p
    mx, my, width = head.mouth()
    lift = head.lift()
    patch = view.patch(mx, my, width + 0.15, abs(lift) + 0.4 * head.open + 0.22)
    if not patch:
        return
    x, y = patch.x, patch.y
    t = np.clip(x / width, -1, 1)
    square = t * t
    hump = 1 - square
    within = np.abs(x) - width
    line = -lift * square
    thin = view.pixel * 0.4  # so that the smallest mouth is seen
    lip = p.lip_color
    lips = p.skin * (1 - lip) * 0.80 + lip * (0.42 * p.skin + np.array([0.42, 0.06, 0.10], np.float32))
    bow = p.upper_lip * (hump**0.7) * (1 - 0.32 * np.exp(-((t / 0.18) ** 2)))
    full = p.lower_lip * hump**0.6
    if head.smile >= 0.2:  # a laugh opens downwards under a straight row of teeth
        upper, lower = line * 0.75, line + 0.36 * head.open * np.sqrt(hump) * width / 0.3
    elif head.teeth:
        upper, lower = line - 0.05 * hump**0.35, line + 0.075 * hump**0.35
    else:
        gap = 0.3 * head.open * np.sqrt(hump)
        upper, lower = line - gap * 0.45, line + gap * 0.55
    inner = np.maximum(shapes.between(y, upper - thin, lower + thin), within)
    patch.fill(inner, (0.30, 0.05, 0.07), INNER_MOUTH, outline=False)
    if head.teeth:
        teeth = np.maximum(shapes.between(y, upper + 0.012, lower - 0.012), np.abs(x) - width * 0.9)
        patch.fill(teeth, WHITE, outline=False)
        gaps = np.abs(np.mod(x / width * 3 + 0.5, 1) - 0.5) * width / 3 - 0.008
        patch.fill(np.maximum(gaps, teeth), (0.5, 0.42, 0.42), alpha=0.8, outline=False)
        patch.fill(np.maximum(np.abs(y - line - 0.01) - 0.008, teeth), (0.5, 0.42, 0.42), alpha=0.8, outline=False)
    elif head.open > 0.2:
        if head.smile >= 0.2:
            tongue = np.maximum(shapes.ellipse(x, y - 0.3 * head.open * width / 0.3, width * 0.6, 0.14), inner)
            patch.fill(tongue, (0.86, 0.36, 0.38), outline=False)
        deep = 0.10 if head.smile >= 0.2 else 0.055
        teeth = np.maximum(shapes.between(y, upper, upper + deep * head.open), np.abs(x) - width * 0.86)
        patch.fill(np.maximum(teeth, y - lower), WHITE, outline=False)
    patch.fill(
        np.maximum(shapes.between(y, upper - bow, upper), within), patch.lit(lips, 0.88), UPPER_LIP, outline=False
    )
    patch.fill(np.maximum(shapes.between(y, lower, lower + full), within), patch.lit(lips), LOWER_LIP, outline=False)
    shine = shapes.ellipse(x, y - lower - p.lower_lip * 0.45, width * 0.3, 0.014)
    patch.fill(shine, (1.0, 0.9, 0.9), alpha=0.3, outline=False)
    if head.open <= 0.2 and not head.teeth:
        seam = np.maximum(np.abs(y - line) - 0.014 - thin * 0.6, within - 0.015)
        patch.fill(seam, p.skin * 0.26, UPPER_LIP, alpha=0.92, outline=False)
    for side in (-1, 1):  # the corners
        corner = shapes.segment(
            x - side * width, y + lift, 0, 0, side * 0.035, -0.03 * np.sign(lift), 0.012 + thin * 0.5
        )
        patch.fill(corner, p.skin * 0.4, alpha=min(1.0, abs(head.smile)) * 0.8, outline=False)
    shadow = shapes.arc(x, y - np.float32(0.06) - p.lower_lip - 0.16 * head.open, width * 0.5, 0.015, 0.014)
    patch.fill(shadow, p.skin * 0.65, alpha=0.4, outline=False)


def paint_eyes(view: View, head: Head) -> None:
    """Whites, irises, pupils, lids and lashes."""
    p, s = head.p, head.s
    for side, label in zip((-1, 1), EYES, strict=True):
        cx, cy = head.eye(side)
        patch = view.patch(cx, cy, p.eye_width * 1.35 + 0.1, p.eye_height * 2.2 + 0.12)
        if not patch:
            continue
        x, y = patch.x, patch.y
        width = p.eye_width * head.squeeze(side * p.eye_spacing)
        socket = shapes.ellipse(x, y + 0.02, width * 1.3, p.eye_height * 1.9)
        patch.tint(np.clip(-socket / 0.1, 0, 1) * 0.28, p.skin * 0.74)
        y = y + side * p.eye_tilt * x
        t = np.clip(x / width, -1, 1)
        hump = (1 - t * t) ** 0.75
        within = np.abs(x) - width
        outwards = side * t
        if s.eyes_closed:
            top = bottom = p.eye_height * (0.45 * hump - 0.1)
        else:
            height = p.eye_height * (1 - head.squint)
            # Anger lowers the inner half of the lid, sadness the outer one.
            slant = 0.45 * height * head.brow_knit * outwards
            top = -height * hump - np.minimum(slant, 0.35 * height) * hump * 0.8 * (head.brow_knit != 0)
            bottom = height * (0.78 - 0.5 * max(head.smile, 0.0) * (0.4 + 0.6 * (head.open > 0.2))) * hump
            opening = np.maximum(shapes.between(y, top, bottom), within)
            patch.fill(opening, WHITE, label, outline=False)
            radius = min(p.eye_height * 0.98 + 0.008, width * 0.62)
            gx = x - s.gaze_x * width * 0.28 - 0.06 * head.sin
            gy = y - s.gaze_y * 0.02 + 0.02 * p.eye_height
            ball = shapes.ellipse(gx, gy, radius * (0.75 + 0.25 * width / p.eye_width), radius)
            shape = np.maximum(ball, opening)
            patch.fill(shape, p.eye_rgb * 0.55, outline=False)
            lighter = p.eye_rgb[:, None, None] * (1.05 + 0.5 * np.clip(gy / radius, -0.6, 1))
            patch.fill(np.maximum(ball + radius * 0.17, opening), lighter, outline=False)
            patch.fill(np.maximum(ball + radius * 0.56, opening), INK, outline=False)
            patch.tint(patch.coverage(opening) * np.clip(1 - (y - top) / 0.06, 0, 1) * 0.35, p.skin * 0.25)
            for dx, size in ((0.34, 0.27), (-0.36, 0.14)):
                glint = shapes.circle(gx + radius * dx, gy + radius * dx, radius * size)
                patch.fill(np.maximum(glint, opening), (1.0, 1.0, 1.0), outline=False)
            low = np.maximum(np.abs(y - bottom) - 0.009, within)
            patch.fill(low, p.skin * 0.45, alpha=0.7, outline=False)
            crease = np.maximum(np.abs(y - top * 1.25 + 0.035) - 0.009 - view.pixel * 0.1, within + width * 0.12)
            patch.fill(crease, p.skin * 0.5, alpha=0.55, outline=False)
        lash = 0.016 + 0.02 * p.lashes + view.pixel * 0.12
        lid = np.maximum(np.abs(y - top) - lash * (0.75 + 0.35 * outwards), within - 0.02)
        patch.fill(lid, INK, alpha=0.95, outline=False)
        if p.lashes > 0.62:
            ends = (0.62, 0.95) if s.eyes_closed else (0.8, 1.0)
            for at, long in zip(ends, (0.8, 1.0), strict=True):
                lx = side * width * at
                ly = float(p.eye_height * (0.3 if s.eyes_closed else -0.6) * (1 - at * at) ** 0.75)
                tip = 0.11 * p.lashes * long
                wing = shapes.segment(x - lx, y - ly, 0, 0, side * tip * 0.8, tip * (0.4 if s.eyes_closed else -0.75),
                                      0.02, 0.006)  # fmt: skip
                patch.fill(wing, INK, alpha=0.95, outline=False)


def paint_brows(view: View, head: Head) -> None:
    """Eyebrows in the colour of the hair, darker."""
    p = head.p
    hair = p.hair_rgb * 0.6 + 0.1 * p.skin
    for side, label in zip((-1, 1), BROWS, strict=True):
        ex, ey = head.eye(side)
        squeeze = head.squeeze(side * p.eye_spacing)
        width = p.eye_width * 1.2 * squeeze
        cx = ex + side * (0.015 - 0.04 * max(head.brow_knit, 0.0))
        cy = ey - p.brow_gap - 0.11 * head.brow_raise - 0.03 * min(head.brow_knit, 0.0)
        width = min(width, max(head.face_width * 0.96 - abs(cx - head.face_x), 0.06))  # not beyond the face
        patch = view.patch(cx, cy, width + 0.1, p.brow_weight * 1.3 + abs(p.brow_arch) + 0.75 * width + 0.05)
        if not patch:
            continue
        x = patch.x
        y = patch.y + side * (p.brow_tilt * (1 - 0.7 * min(1.0, abs(head.brow_knit))) + 0.55 * head.brow_knit) * x
        thickness = p.brow_weight * (1 - 0.3 * side * x / width)
        stroke = shapes.arc(x, y + p.brow_arch * 0.5, width, -p.brow_arch - 0.05 * head.brow_raise, thickness)
        patch.fill(stroke, hair, label, outline=False)
