"""Clothes, hats, glasses and jewellery."""

from __future__ import annotations

import torch
from torch import Tensor

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import INK, Canvas
from consistentid.drawn.portraits.face import Frame, Traits, color, glasses_distance, is_one_of
from consistentid.drawn.portraits.scenes import CLOTHES, GLASSES, HATS


def paint_clothes(canvas: Canvas, p: Traits, s: Traits, f: Frame, u: Tensor, v: Tensor) -> None:
    """Neck, shoulders and what is worn on them."""

    def wears(*names: str) -> Tensor:
        return is_one_of(s.clothes, CLOTHES, *names)

    # The body follows the head's place but not its tilt.
    x, y = (u - s.center_x * 0.8) / s.scale, (v - s.center_y) / s.scale
    skin = p.skin[:, :, None, None] * f.light[:, None]
    neck_width = 0.30 + 0.08 * (~p.woman)[:, None, None].float()
    neck = shapes.box(x, y - 1.05, neck_width, 0.65, 0.1)
    canvas.fill(neck, skin * 0.82, 14)
    wide = 1.22 + 0.16 * (~p.woman)[:, None, None].float()
    top = p.face_height + 0.22
    body = shapes.superellipse(x, y - top - 1.5, wide, 1.5 + 0 * top, 2.6)
    cloth = s.clothes_rgb[:, :, None, None] * (0.9 + 0.1 * f.light)[:, None]
    canvas.fill(body, torch.where(wears("dress")[:, None] > 0, skin * 0.95, cloth), 16)
    white, black = color((0.95, 0.95, 0.94), x), color((0.12, 0.12, 0.14), x)

    def only(where: Tensor, distance: Tensor) -> Tensor:
        return torch.where(where > 0, distance, 1.0)

    collar_y = y - top
    neckline = shapes.ellipse(x, collar_y + 0.02, 0.34, 0.17)
    canvas.fill(torch.maximum(only(wears("t-shirt", "dress"), neckline), body), skin * 0.9, 14, outline=False)
    straps = torch.maximum(body, torch.minimum((x.abs() - 0.55).abs() - 0.08, 0.38 - collar_y))
    canvas.fill(only(wears("dress"), straps), cloth, 16)
    gap = torch.maximum(body, x.abs() - (0.62 - collar_y) * 0.45)
    canvas.fill(only(wears("suit"), gap), white, 16)
    tie = torch.maximum(body, x.abs() - 0.07 - 0.06 * collar_y.clamp(0, 1))
    canvas.fill(only(wears("suit"), torch.maximum(tie, 0.04 - collar_y)), black, 16)
    lapel = shapes.segment(x.abs(), collar_y, 0.22, 0.0, 0.1, 0.26, 0.085)
    canvas.fill(only(wears("shirt"), lapel), cloth * 1.12, 16)
    button = torch.maximum(body, x.abs() - 0.015)
    canvas.fill(only(wears("shirt"), torch.maximum(button, 0.2 - collar_y)), s.clothes_rgb * 0.6, 16, outline=False)
    roll = shapes.box(x, collar_y + 0.02, neck_width + 0.05, 0.15, 0.08)
    canvas.fill(only(wears("sweater"), roll), cloth * 0.88, 16)
    hood = torch.maximum(shapes.ellipse(x, collar_y - 0.05, 0.74, 0.25), -shapes.ellipse(x, collar_y + 0.08, 0.4, 0.2))
    canvas.fill(only(wears("hoodie"), hood), cloth * 0.8, 16)
    cords = shapes.segment(x.abs(), collar_y, 0.2, 0.12, 0.17, 0.5, 0.025)
    canvas.fill(only(wears("hoodie"), cords), white, 16, outline=False)
    beads = (shapes.ellipse(x, collar_y + 0.08, 0.36, 0.26)).abs() - 0.035
    worn = s.necklace[:, None, None] & (collar_y > -0.05) & (x.abs() < 0.5)
    canvas.fill(torch.where(worn, beads, 1.0), color((0.96, 0.9, 0.72), x), 15, outline=False)


def paint_glasses(canvas: Canvas, s: Traits, f: Frame) -> None:
    """Round or square frames, and dark glasses."""
    rows = torch.nonzero(s.glasses > 0).flatten()
    if not len(rows):
        return
    dark = color(INK, f.x)
    worn = (s.glasses > 0)[:, None, None]
    shades = is_one_of(s.glasses, GLASSES, "sunglasses") > 0
    bridge_x, bridge_y = f.at(0.0, -0.13, 0.8)
    canvas.fill(torch.where(worn, shapes.box(bridge_x, bridge_y, 0.1, 0.022), 1.0), dark, 6, outline=False)
    for side in (-1, 1):
        lens = glasses_distance(s, f, side)
        canvas.fill(torch.where(shades, lens, 1.0), dark, 6, alpha=0.93, outline=False)
        canvas.fill(torch.where(worn, lens.abs() - 0.026, 1.0), dark, 6, outline=False)
        ax, ay = f.at(side * 0.62, -0.13, 0.3)
        arm = shapes.box(ax, ay, 0.12, 0.02)
        canvas.fill(torch.where(worn, arm, 1.0), dark, 6, outline=False)


def paint_hat(canvas: Canvas, p: Traits, s: Traits, f: Frame) -> None:
    """Brimmed hat, cap, beanie, crown or headband."""

    def wears(*names: str) -> Tensor:
        return is_one_of(s.hat, HATS, *names)

    if not bool((s.hat > 0).any()):
        return
    x, y = f.at(0.0, -p.face_height + 0.26, 0.05)  # at the line where a hat sits
    half = p.face_width + 0.06 + p.hair_volume * 0.55
    rgb = s.hat_rgb[:, :, None, None] * f.light[:, None]
    dark = s.hat_rgb * 0.55

    def only(name: str, distance: Tensor) -> Tensor:
        return torch.where(wears(name) > 0, distance, 1.0)

    dome = torch.maximum(shapes.superellipse(x, y + 0.0, half, 0.62, 2.6), y)
    canvas.fill(only("hat", torch.maximum(shapes.superellipse(x, y, half * 0.95, 0.66, 3.4), y)), rgb, 18)
    canvas.fill(only("hat", shapes.box(x, y + 0.1, half * 0.95, 0.08)), dark, 18, outline=False)
    canvas.fill(only("hat", shapes.ellipse(x, y + 0.01, half * 1.55, 0.11)), rgb * 0.92, 18)
    canvas.fill(only("cap", dome), rgb, 18)
    facing = torch.where(f.yaw >= 0, 1.0, -1.0)
    peak = torch.maximum(shapes.ellipse(x - facing * 0.25, y + 0.02, half * 0.95, 0.15), -(y + 0.08))
    canvas.fill(only("cap", peak), rgb * 0.75, 18)
    canvas.fill(
        only("beanie", torch.maximum(shapes.superellipse(x, y - 0.08, half + 0.02, 0.72, 2.2), y - 0.08)), rgb, 18
    )
    canvas.fill(only("beanie", shapes.box(x, y - 0.02, half + 0.05, 0.1, 0.05)), rgb * 0.82, 18)
    canvas.fill(only("beanie", shapes.ellipse(x, y + 0.68, 0.15, 0.15)), color((0.95, 0.95, 0.95), x), 18)
    points = 0.30 + 0.2 * (torch.frac((x / half + 1) * 2.5) - 0.5).abs() * 2
    gold = color((0.96, 0.77, 0.2), x)[:, :, None, None] * f.light[:, None]
    crown = torch.maximum(torch.maximum(x.abs() - half * 0.9, y), -(y + points))
    canvas.fill(only("crown", crown), gold, 18)
    jewels = shapes.ellipse(torch.remainder(x + 0.2, 0.4) - 0.2, y + 0.13, 0.06, 0.06)
    canvas.fill(only("crown", torch.maximum(jewels, crown)), s.hat_rgb, 18, outline=False)
    arc = y - 0.1 + 0.22 * (1 - (x / half) ** 2)
    band = torch.maximum(arc.abs() - 0.09, x.abs() - half)
    canvas.fill(only("headband", band), rgb, 18)
