"""From people and scenes to pictures, labels and landmarks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consistentid.drawn.portraits import attire, face, finish, hair
from consistentid.drawn.portraits.backdrop import paint_background
from consistentid.drawn.portraits.canvas import Canvas
from consistentid.drawn.portraits.people import EYES, HAIR, People
from consistentid.drawn.portraits.sampling import Table
from consistentid.drawn.portraits.scenes import COLORS, STYLES, Scenes
from consistentid.errors import InputError

CHUNK = 32  # pictures drawn at a time: the working set of a larger batch leaves the processor's cache


@dataclass(frozen=True)
class Portraits:
    """Drawn pictures and what is known of them.

    images: (B, 3, H, W) float32 RGB in [0, 1]. labels: (B, H, W) uint8, CelebAMask-HQ classes.
    landmarks: (B, 5, 2) float32 pixels (x, y): eye on the picture's left, eye on its right, tip of the nose,
    left and right corner of the mouth.
    """

    images: Tensor
    labels: Tensor
    landmarks: Tensor

    def pixels(self) -> NDArray[np.uint8]:
        """The images as Pillow and files want them: (B, H, W, 3) uint8."""
        return np.ascontiguousarray((self.images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def draw(people: People, scenes: Scenes, size: int = 128, device: torch.device | str = "cpu") -> Portraits:
    """Draw every person in the scene of the same row, ``size`` pixels square.

    A row is drawn alike whatever rows are drawn with it, up to the rounding of the last bit.

    Raises:
        InputError: not as many scenes as people.
    """
    if len(people) != len(scenes):
        raise InputError(f"{len(people)} people and {len(scenes)} scenes: give as many scenes as people")
    parts = [
        _draw(people[i : i + CHUNK], scenes[i : i + CHUNK], size, torch.device(device))
        for i in range(0, len(people), CHUNK)
    ]
    return Portraits(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Portraits)))


def _columns(table: Table, device: torch.device) -> SimpleNamespace:
    """Traits as tensors that broadcast over pixels: (B, 1, 1), or (B, 3) for colours; categories stay (B,)."""
    out = {}
    for f in fields(table):
        value = torch.from_numpy(np.ascontiguousarray(getattr(table, f.name))).to(device)
        out[f.name] = value[:, None, None] if value.ndim == 1 and value.dtype == torch.float32 else value
    return SimpleNamespace(**out)


def palette(colors: dict[str, tuple[int, int, int]], index: Tensor) -> Tensor:
    """Colours (B, 3) in [0, 1] of a table by index (B,)."""
    return (torch.tensor(list(colors.values()), dtype=torch.float32, device=index.device) / 255)[index]


@torch.no_grad()
def _draw(people: People, scenes: Scenes, size: int, device: torch.device) -> Portraits:
    p, s = _columns(people, device), _columns(scenes, device)
    p.hair_rgb = (palette(HAIR, p.hair_color) * p.hair_shade.view(-1, 1)).clamp(0, 1)
    p.eye_rgb = palette(EYES, p.eye_color)
    s.clothes_rgb, s.hat_rgb = palette(COLORS, s.clothes_color), palette(COLORS, s.hat_color)
    s.background_rgb = palette(COLORS, s.background_color)

    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1
    v, u = axis.view(1, size, 1), axis.view(1, 1, size)
    n = len(people)
    style = scenes.style
    ink = np.where(style == STYLES.index("ink"), 0.05, np.where(style == STYLES.index("pencil"), 0.03, 0.0))
    canvas = Canvas(
        rgb=torch.zeros(n, 3, size, size, device=device),
        labels=torch.zeros(n, size, size, dtype=torch.uint8, device=device),
        pixel=2 / size / s.scale,
        ink=torch.from_numpy(ink.astype(np.float32)).to(device)[:, None, None] * (1 + 16 / size),
    )
    paint_background(canvas, s, u.expand(n, size, size), v.expand(n, size, size))

    frame = face.Frame.of(p, s, u, v)
    hair.paint_back(canvas, p, frame)
    attire.paint_clothes(canvas, p, s, frame, u, v)
    face.paint_ears(canvas, p, s, frame)
    face.paint_head(canvas, p, frame)
    hair.paint_beard(canvas, p, frame)
    face.paint_nose(canvas, p, frame)
    face.paint_mouth(canvas, p, frame)
    face.paint_eyes(canvas, p, s, frame)
    face.paint_brows(canvas, p, frame)
    attire.paint_glasses(canvas, s, frame)
    hair.paint_front(canvas, p, s, frame)
    attire.paint_hat(canvas, p, s, frame)
    finish.apply_style(canvas, s, u, v)

    return Portraits(canvas.rgb.clamp_(0, 1), canvas.labels, _landmarks(frame, p, size))


def locate(people: People, scenes: Scenes, size: int = 128) -> Tensor:
    """The landmarks of pictures alone, as `Portraits` has them, without drawing."""
    p, s = _columns(people, torch.device("cpu")), _columns(scenes, torch.device("cpu"))
    nowhere = torch.zeros(1, 1, 1)
    return _landmarks(face.Frame.of(p, s, nowhere, nowhere), p, size)


def _landmarks(frame: face.Frame, p: SimpleNamespace, size: int) -> Tensor:
    return (frame.landmarks(p) + 1) * (size / 2)
