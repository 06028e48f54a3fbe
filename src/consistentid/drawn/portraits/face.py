"""The head: where its features lie under a pose, and how they are painted."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import INK, Canvas
from consistentid.drawn.portraits.scenes import EXPRESSIONS, GLASSES, LIGHTS, STYLES

Traits = SimpleNamespace


def color(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    """A constant colour (1, 3) on the device of ``like``."""
    return torch.tensor([rgb], dtype=torch.float32, device=like.device)


def is_one_of(index: Tensor, names: tuple[str, ...], *wanted: str) -> Tensor:
    """1 where a category is one of ``wanted``, else 0; (B, 1, 1)."""
    ids = torch.tensor([names.index(w) for w in wanted], device=index.device)
    return torch.isin(index, ids).float()[:, None, None]


@dataclass
class Frame:
    """Head coordinates of every pixel and the places of the features in them.

    A feature at (x, y) on the face is seen at (x cos(yaw) + z sin(yaw), y + z sin(pitch)), z its height above the
    centre of the head; so the nose moves more than the eyes and the ears move the other way.
    """

    x: Tensor  # (B, H, W) head units
    y: Tensor
    yaw: Tensor
    pitch: Tensor
    smile: Tensor  # -1 corners down ... 1 corners up
    open: Tensor  # 0 closed ... 1 wide open mouth
    brow_raise: Tensor
    brow_knit: Tensor
    light: Tensor  # (B, H, W) factor on skin, hair and clothes
    roll: Tensor
    center_x: Tensor
    center_y: Tensor
    scale: Tensor

    @classmethod
    def of(cls, p: Traits, s: Traits, u: Tensor, v: Tensor) -> Frame:
        """The frame of a batch; u, v are the picture's coordinates in [-1, 1]."""
        du, dv = u - s.center_x, v - s.center_y
        cos, sin = torch.cos(s.roll), torch.sin(s.roll)
        x, y = (cos * du + sin * dv) / s.scale, (cos * dv - sin * du) / s.scale

        def mood(*values: float) -> Tensor:
            table = torch.tensor(values, device=u.device)
            out: Tensor = table[s.expression][:, None, None] * s.intensity
            return out

        assert len(EXPRESSIONS) == 6
        side = is_one_of(s.light, LIGHTS, "right") - is_one_of(s.light, LIGHTS, "left")
        relief = torch.where(
            torch.isin(s.style, torch.tensor([STYLES.index("flat"), STYLES.index("poster")], device=u.device)),
            0.35,
            1.0,
        )[:, None, None]
        light = 1 + relief * (
            0.3 * side * s.light_strength * (x / 0.9).clamp(-1.2, 1.2)
            - 0.10 * (y / 1.1).clamp(-1, 1.3)
            - 0.10 * ((x / p.face_width) ** 2).clamp(max=1.5)
        )
        return cls(
            x=x,
            y=y,
            yaw=s.yaw,
            pitch=s.pitch,
            smile=mood(0.12, 0.75, 0.95, -0.8, -0.5, 0.0),
            open=mood(0.0, 0.0, 0.75, 0.0, 0.0, 0.8),
            brow_raise=mood(0.0, 0.1, 0.25, 0.15, -0.45, 0.9),
            brow_knit=mood(0.0, 0.0, 0.0, -0.8, 1.0, -0.1),
            light=light,
            roll=s.roll,
            center_x=s.center_x,
            center_y=s.center_y,
            scale=s.scale,
        )

    def place(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor]:
        """Where the point (x, y, z) of the head is seen, in head units."""
        return x * torch.cos(self.yaw) + z * torch.sin(self.yaw), y + z * torch.sin(self.pitch)

    def at(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> tuple[Tensor, Tensor]:
        """Pixel coordinates relative to the seen place of a point."""
        cx, cy = self.place(x, y, z)
        return self.x - cx, self.y - cy

    def mouth(self, p: Traits) -> tuple[Tensor, Tensor, Tensor]:
        """Middle of the mouth (x, y) and its half width, in head units."""
        width = p.mouth_width * (1 + 0.16 * self.smile.clamp(min=0) - 0.3 * self.open * (self.smile < 0.2))
        x, y = self.place(0.0, p.eye_level + p.nose_length + p.mouth_level + 0.03, 0.62)
        return x, y, width

    def landmarks(self, p: Traits) -> Tensor:
        """(B, 5, 2) in picture coordinates [-1, 1]: eyes, tip of the nose, corners of the mouth."""
        mx, my, width = self.mouth(p)
        lift = -0.12 * self.smile * width / 0.3
        points = [
            self.place(-p.eye_spacing, p.eye_level, 0.55),
            self.place(p.eye_spacing, p.eye_level, 0.55),
            self.place(0.0, p.eye_level + p.nose_length, 0.85),
            (mx - width, my + lift),
            (mx + width, my + lift),
        ]
        cos, sin = torch.cos(self.roll), torch.sin(self.roll)
        seen = [
            torch.stack(
                [self.center_x + self.scale * (cos * x - sin * y), self.center_y + self.scale * (sin * x + cos * y)], -1
            )
            for x, y in points
        ]
        return torch.cat(seen, 1).view(-1, 5, 2)


def outline(p: Traits, f: Frame) -> Tensor:
    """Distance to the outline of the face."""
    x, y = f.at(0.0, 0.0, 0.1)
    down = (y / p.face_height).clamp(0, 1)
    half = p.face_width * (1 - 0.42 * p.jaw * down**1.7 + 0.06 * (1 - p.jaw) * down)
    return shapes.superellipse(x, y, half, p.face_height, p.squareness)


def paint_ears(canvas: Canvas, p: Traits, s: Traits, f: Frame) -> None:
    """Both ears, with an earring where the scene has them."""
    skin = p.skin[:, :, None, None] * f.light[:, None] * 0.95
    for side, label in ((-1, 7), (1, 8)):
        x, y = f.at(side * p.face_width * 1.0, p.eye_level + 0.14, -0.12)
        cos, sin = torch.cos(side * p.ear_angle), torch.sin(side * p.ear_angle)
        x, y = cos * x + sin * y, cos * y - sin * x
        lobe = shapes.ellipse(x, y, p.ear_size * 0.62, p.ear_size)
        canvas.fill(lobe, skin, label)
        inner = shapes.ellipse(x, y, p.ear_size * 0.3, p.ear_size * 0.6)
        canvas.fill(inner, p.skin * 0.72, alpha=0.8, outline=False)
        if bool(s.earrings.any()):
            ring = shapes.ellipse(x, y - p.ear_size * 1.15, 0.06, 0.06)
            worn = torch.where(s.earrings[:, None, None], ring, 1.0)
            canvas.fill(worn, color((0.95, 0.78, 0.25), f.x), 9)


def paint_head(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Skin of the face, blush, freckles, mole and the lines of age."""
    edge = outline(p, f)
    skin = p.skin[:, :, None, None] * f.light[:, None]
    canvas.fill(edge, skin, 1)
    inside = canvas.coverage(edge)
    red = p.skin * 0.6 + torch.tensor([0.42, 0.12, 0.12], device=p.skin.device)
    for side in (-1, 1):
        x, y = f.at(side * p.face_width * 0.58, p.eye_level + p.nose_length * 0.85, 0.5)
        cheek = torch.exp(-((x / 0.2) ** 2 + (y / 0.15) ** 2))
        canvas.tint(inside * cheek * p.blush * 0.6, red)

    if bool(p.freckles.any()):
        x, y = f.at(0.0, p.eye_level + p.nose_length * 0.75, 0.65)
        cell_x, cell_y = x / 0.075, y / 0.075
        ix, iy = torch.floor(cell_x), torch.floor(cell_y)
        jitter = torch.frac(torch.sin(ix * 12.99 + iy * 78.23) * 437.58).abs()
        dots = (
            torch.sqrt((cell_x - ix - 0.3 - 0.4 * jitter) ** 2 + (cell_y - iy - 0.7 + 0.4 * jitter) ** 2) * 0.075 - 0.02
        )
        zone = (1.3 - (x / 0.5) ** 2 - (y / 0.16) ** 2).clamp(0, 1) * (jitter > 0.25)
        canvas.fill(dots, p.skin * 0.62, alpha=inside * zone * p.freckles[:, None, None], outline=False)
    if bool(p.mole.any()):
        x, y = f.at(p.mole_x * p.face_width, p.mole_y, 0.5)
        spot = torch.where(p.mole[:, None, None], shapes.ellipse(x, y, 0.035, 0.035), 1.0)
        canvas.fill(spot, p.skin * 0.3, alpha=inside, outline=False)

    old = ((p.age - 0.5) * 2).clamp(0, 1) * 0.65 * inside
    mx, my, width = f.mouth(p)
    for side in (-1, 1):
        fold = shapes.segment(
            f.x - mx,
            f.y - my,
            side * 0.16,
            -p.mouth_level * 0.9,
            side * (width + 0.09),
            0.02,
            0.012 + canvas.pixel * 0.15,
        )
        canvas.fill(fold, p.skin * 0.62, alpha=old, outline=False)
        x, y = f.at(side * p.eye_spacing, p.eye_level + 0.2, 0.55)
        canvas.fill(shapes.arc(x, y, 0.15, 0.04, 0.014), p.skin * 0.65, alpha=old, outline=False)
    for k in (0, 1):
        x, y = f.at(0.0, p.eye_level - 0.36 - 0.1 * k, 0.6)
        canvas.fill(shapes.arc(x, y, 0.3, -0.025, 0.013), p.skin * 0.68, alpha=old, outline=False)


def paint_nose(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Bridge, tip, wings and nostrils."""
    tip_y = p.eye_level + p.nose_length
    tip_x, seen_y = f.place(0.0, tip_y, 0.85)
    root_x, root_y = f.place(0.0, p.eye_level - 0.02, 0.62)
    t = ((f.y - root_y) / (seen_y - root_y)).clamp(0, 1)
    middle = root_x + (tip_x - root_x) * t
    half = p.nose_bridge + (p.nose_width - p.nose_bridge) * t**2.2
    bridge = torch.maximum((f.x - middle).abs() - half, torch.maximum(root_y - f.y, f.y - seen_y))
    x, y = f.x - tip_x, f.y - seen_y
    tip = shapes.ellipse(x, y + 0.01, 0.075 + 0.05 * p.nose_tip, 0.07 + 0.03 * p.nose_tip)
    wings = shapes.ellipse(x.abs() - p.nose_width * 0.72, y, p.nose_width * 0.42, 0.06)
    nose = torch.minimum(bridge, torch.minimum(tip, wings))
    skin = p.skin[:, :, None, None]
    warm = skin * torch.tensor([1.02, 0.93, 0.91], device=skin.device).view(1, 3, 1, 1)
    shade = (1 - 0.22 * ((f.x - middle) / half.clamp(min=0.03)).clamp(0, 1.2)) * (0.86 + 0.14 * t)
    canvas.fill(nose, warm * (f.light * shade)[:, None], 10, alpha=0.35 + 0.65 * t, outline=False)
    under = torch.maximum(shapes.ellipse(x, y - 0.035, p.nose_width * 1.02, 0.06), 0.02 - y)
    canvas.fill(under, p.skin * 0.68, alpha=0.75, outline=False)
    nostrils = shapes.ellipse(x.abs() - p.nose_width * 0.48, y - 0.03, p.nose_width * 0.24, 0.03)
    canvas.fill(nostrils, p.skin * 0.3, outline=False)


def paint_mouth(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Lips, the line between them, and teeth where the mouth is open."""
    mx, my, width = f.mouth(p)
    x, y = f.x - mx, f.y - my
    t = (x / width).clamp(-1, 1)
    hump = 1 - t * t
    inside_x = x.abs() - width
    line = 0.12 * f.smile * (hump - 0.0) * width / 0.3 - 0.12 * f.smile * width / 0.3
    gap = 0.24 * f.open * hump
    bow = p.upper_lip * (hump**0.7) * (1 - 0.3 * torch.exp(-((t / 0.18) ** 2)))
    upper, lower = line - gap * 0.35, line + gap * 0.65
    lips = p.skin * (1 - p.lip_color.view(-1, 1)) * 0.82 + p.lip_color.view(-1, 1) * (
        0.45 * p.skin + torch.tensor([0.42, 0.06, 0.10], device=p.skin.device)
    )
    thin = canvas.pixel * 0.25
    inner = torch.maximum(shapes.between(y, upper - thin, lower + thin), inside_x)
    canvas.fill(inner, color((0.28, 0.05, 0.07), x), 11, outline=False)
    teeth = torch.maximum(shapes.between(y, upper, upper + 0.075 * f.open), x.abs() - width * 0.75)
    canvas.fill(torch.maximum(teeth, y - lower), color((0.97, 0.96, 0.93), x), outline=False)
    canvas.fill(torch.maximum(shapes.between(y, upper - bow, upper), inside_x), lips * 0.88, 12, outline=False)
    low = torch.maximum(shapes.between(y, lower, lower + p.lower_lip * hump**0.6), inside_x)
    canvas.fill(low, lips, 13, outline=False)
    seam = torch.maximum((y - line).abs() - 0.012 - thin * 0.6, inside_x - 0.01)
    canvas.fill(torch.where(f.open > 0.2, 1.0, seam), p.skin * 0.3, alpha=0.9, outline=False)


def paint_eyes(canvas: Canvas, p: Traits, s: Traits, f: Frame) -> None:
    """Whites, irises, pupils, lids and lashes."""
    closed = s.eyes_closed[:, None, None].float()
    squint = 1 - 0.22 * f.smile.clamp(min=0) + 0.28 * f.brow_raise.clamp(min=0) - 0.15 * f.brow_knit.clamp(min=0)
    height = (p.eye_height * squint) * (1 - closed)
    dark = color(INK, f.x)
    for side, label in ((-1, 4), (1, 5)):
        x, y = f.at(side * p.eye_spacing, p.eye_level, 0.55)
        width = p.eye_width * torch.cos(f.yaw + side * 0.35 * torch.sign(f.yaw) * f.yaw.abs())
        tilt = side * p.eye_tilt
        y = y + tilt * x
        t = (x / width).clamp(-1, 1)
        hump = (1 - t * t) ** 0.8
        top, bottom = -height * hump, height * 0.75 * hump
        inside = x.abs() - width
        socket = shapes.ellipse(x, y, width * 1.25, p.eye_height * 1.7)
        canvas.fill(socket, p.skin * 0.8, alpha=0.3, outline=False)
        opening = torch.maximum(shapes.between(y, top, bottom), inside)
        canvas.fill(opening, color((0.98, 0.98, 0.97), x), label, outline=False)
        radius = p.eye_height * 1.02 + 0.005
        gx, gy = x - s.gaze_x * width * 0.3 - f.yaw * 0.1, y - s.gaze_y * 0.02
        iris = torch.maximum(shapes.ellipse(gx, gy, radius, radius), opening)
        canvas.fill(iris, p.eye_rgb, outline=False)
        canvas.fill(torch.maximum(shapes.ellipse(gx, gy, radius * 0.45, radius * 0.45), opening), dark, outline=False)
        glint = shapes.ellipse(gx + radius * 0.35, gy + radius * 0.35, radius * 0.26, radius * 0.26)
        canvas.fill(torch.maximum(glint, opening), color((1.0, 1.0, 1.0), x), outline=False)
        lash = 0.014 + 0.022 * p.lashes
        lid = torch.maximum((y - top).abs() - lash, inside - 0.02 * p.lashes)
        canvas.fill(lid, dark, alpha=0.92, outline=False)
        low = torch.maximum((y - bottom).abs() - 0.008, inside)
        canvas.fill(low, p.skin * 0.5, alpha=0.6 * (1 - closed), outline=False)


def paint_brows(canvas: Canvas, p: Traits, f: Frame) -> None:
    """Eyebrows in the colour of the hair, darker."""
    hair = p.hair_rgb * 0.62 + 0.12 * p.skin
    for side, label in ((-1, 2), (1, 3)):
        x, y = f.at(side * (p.eye_spacing + 0.01), p.eye_level - p.brow_gap - 0.07 * f.brow_raise, 0.55)
        tilt = side * (p.brow_tilt - 0.3 * f.brow_knit)
        y = y + tilt * x
        stroke = shapes.arc(x, y + p.brow_arch * 0.5, p.eye_width * 1.2, -p.brow_arch, p.brow_weight)
        canvas.fill(stroke, hair, label, outline=False)


def glasses_distance(s: Traits, f: Frame, side: int) -> Tensor:
    """Distance to the lens of one side, round or square by the scene."""
    x, y = f.at(side * 0.35, -0.09, 0.75)
    round_lens = shapes.ellipse(x, y, 0.27, 0.25)
    square_lens = shapes.box(x, y, 0.28, 0.2, 0.06)
    return torch.where(is_one_of(s.glasses, GLASSES, "round glasses") > 0, round_lens, square_lens)
