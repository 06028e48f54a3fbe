"""Glasses: wire-rimmed round ones, thick square ones, and dark ones."""

from __future__ import annotations

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import INK, View
from consistentid.drawn.portraits.head import Head

GLASSES = 6

_WIRE, _GOLD = (0.28, 0.20, 0.10), (0.88, 0.70, 0.30)


def paint_glasses(view: View, head: Head) -> None:
    """What the scene's person wears before the eyes, if anything."""
    kind = head.s.glasses
    if kind == "none":
        return
    (left, y0), (right, y1) = head.eye(-1), head.eye(1)
    lift = 0.045 * head.nod
    eyes = [(left + 0.12 * head.sin, y0 + lift), (right + 0.12 * head.sin, y1 + lift)]
    wire = _WIRE if float(head.p.skin.mean()) > 0.45 else _GOLD
    rgb = wire if kind == "round glasses" else INK
    rim = {"round glasses": 0.026, "square glasses": 0.045, "sunglasses": 0.03}[kind] + view.pixel * 0.15
    p = head.p
    # Rims do not meet over the nose.
    room = (eyes[1][0] - eyes[0][0]) / 2 - 0.05
    inner = []
    for side, (cx, cy) in zip((-1, 1), eyes, strict=True):
        squeeze = head.squeeze(side * p.eye_spacing)
        wide = min({"round glasses": 0.27, "square glasses": 0.30, "sunglasses": 0.33}[kind] * squeeze, room)
        tall = {"round glasses": 0.27, "square glasses": 0.19, "sunglasses": 0.24}[kind]
        inner.append(cx - side * wide)
        hinge = head.face_x + side * head.face_width
        if side * (hinge - cx - side * wide) > 0:  # the arm, back to the ear
            arm = view.patch(cx, cy, abs(hinge - cx) + 0.1, 0.15)
            stick = shapes.segment(arm.x, arm.y, side * wide, -0.06, hinge - cx, 0.0, rim * 0.9)
            arm.fill(stick, rgb, GLASSES, outline=False)
        patch = view.patch(cx, cy, wide + 0.1, tall + 0.15)
        if not patch:
            continue
        x, y = patch.x, patch.y
        if kind == "round glasses":
            lens = shapes.ellipse(x, y, wide, tall)
        elif kind == "square glasses":
            lens = shapes.box(x, y, wide, tall, 0.035)
        else:
            lens = shapes.superellipse(
                x + side * 0.03 * (y > 0), y - 0.02, wide * (1 - 0.22 * np.clip(y / tall, 0, 1)), tall, 3.2
            )
        if kind == "sunglasses":
            depth = np.clip((y + tall) / (2 * tall), 0, 1)
            dark = np.array([0.05, 0.05, 0.08], np.float32)[:, None, None] + depth * 0.16
            patch.fill(lens, dark, GLASSES, outline=False)
            gloss = np.maximum(np.abs(x + y * 0.7 + 0.08) - 0.035, lens + 0.05)
            patch.fill(gloss, (0.75, 0.82, 0.92), alpha=0.65, outline=False)
        else:
            patch.fill(lens, (0.92, 0.97, 1.0), alpha=0.13, outline=False)
            gloss = np.maximum(np.abs(x + y * 0.7 + wide * 0.6) - 0.02, lens + 0.05)
            patch.fill(gloss, (1.0, 1.0, 1.0), alpha=0.45, outline=False)
        patch.fill(np.abs(lens) - rim, rgb, GLASSES, outline=False)
    bridge = view.patch((inner[0] + inner[1]) / 2, eyes[0][1] - 0.05, abs(inner[1] - inner[0]) / 2 + 0.1, 0.15)
    half = max((inner[1] - inner[0]) / 2, 0.02) + 0.01
    bridge.fill(shapes.arc(bridge.x, bridge.y, half, -0.05, rim * 0.95), rgb, GLASSES, outline=False)
