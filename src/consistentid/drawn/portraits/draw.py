"""From people and scenes to pictures, labels and landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consistentid.drawn.portraits import face, finish, glasses, hair
from consistentid.drawn.portraits.backdrop import paint_background
from consistentid.drawn.portraits.body import paint_body
from consistentid.drawn.portraits.canvas import Canvas, View
from consistentid.drawn.portraits.groups import Groups
from consistentid.drawn.portraits.hats import paint_hat
from consistentid.drawn.portraits.head import Head, Traits
from consistentid.drawn.portraits.people import BEARDS, EYES, FRINGES, HAIR, HAIRSTYLES, People
from consistentid.drawn.portraits.sampling import Table
from consistentid.drawn.portraits.scenes import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    COLORS,
    EXPRESSIONS,
    GLASSES,
    HATS,
    LIGHTS,
    STYLES,
    Scenes,
    framing,
)
from consistentid.drawn.portraits.shapes import Array
from consistentid.errors import InputError

WORLD: Final = 2
"""Raised whenever the picture of a key changes, so that nothing goes on with pictures that were drawn otherwise."""

Size = int | tuple[int, int]
"""Pixels of a side, or (width, height)."""

_NAMES: dict[str, Sequence[str]] = {
    "hairstyle": HAIRSTYLES,
    "fringe": FRINGES,
    "beard": BEARDS,
    "expression": EXPRESSIONS,
    "light": LIGHTS,
    "clothes": CLOTHES,
    "hat": HATS,
    "glasses": GLASSES,
    "background": BACKGROUNDS,
    "style": STYLES,
    "arms": ARMS,
}
_COLORS = {
    "hair_color": ("hair_rgb", HAIR),
    "eye_color": ("eye_rgb", EYES),
    "clothes_color": ("clothes_rgb", COLORS),
    "hat_color": ("hat_rgb", COLORS),
    "background_color": ("background_rgb", COLORS),
}
_INK = {"ink": 0.05, "pencil": 0.03}


@dataclass(frozen=True)
class Portraits:
    """Drawn pictures of one person each and what is known of them.

    images: (B, 3, H, W) float32 RGB in [0, 1]. labels: (B, H, W) uint8, CelebAMask-HQ classes.
    landmarks: (B, 5, 2) float32 pixels (x, y): eye on the picture's left, eye on its right, tip of the nose,
    left and right corner of the mouth. boxes: (B, 4) float32 pixels, left, top, right and bottom of the face.
    """

    images: Tensor
    labels: Tensor
    landmarks: Tensor
    boxes: Tensor

    def pixels(self) -> NDArray[np.uint8]:
        """The images as Pillow and files want them: (B, H, W, 3) uint8."""
        return np.ascontiguousarray((self.images * 255).round().byte().permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True)
class GroupPortraits(Portraits):
    """Drawn pictures of P people each: `Portraits` with landmarks (B, P, 5, 2) and boxes (B, P, 4), left to right.

    owners: (B, H, W) uint8, 0 where nobody is and else 1 + the number of the person who is seen there.
    """

    owners: Tensor


def draw(people: People, scenes: Scenes, size: Size = 128) -> Portraits:
    """Draw every person in the scene of the same row.

    A row is drawn alike whatever rows are drawn with it.

    Raises:
        InputError: not as many scenes as people.
    """
    if len(people) != len(scenes):
        raise InputError(f"{len(people)} people and {len(scenes)} scenes: give as many scenes as people")
    drawn = draw_groups(Groups(people, scenes, 1), size)
    return Portraits(drawn.images, drawn.labels, drawn.landmarks[:, 0], drawn.boxes[:, 0])


def draw_groups(groups: Groups, size: Size = (192, 128)) -> GroupPortraits:
    """Draw pictures of several people: background and style are those of the first, nearer people cover others."""
    width, height = sides(size)
    pictures = len(groups)
    images = torch.empty(pictures, 3, height, width)
    labels, owners = (torch.empty(pictures, height, width, dtype=torch.uint8) for _ in range(2))
    heads = _heads(groups)
    for i, members in enumerate(heads):
        canvas = _paint(members, width, height)
        images[i], labels[i], owners[i] = (torch.from_numpy(x) for x in (canvas.rgb, canvas.labels, canvas.owners))
    return GroupPortraits(images, labels, *_places(heads, groups.count, width, height), owners)


def locate(people: People, scenes: Scenes, size: Size = 128) -> tuple[Tensor, Tensor]:
    """Landmarks (B, 5, 2) and boxes (B, 4) of pictures, as `Portraits` has them, without drawing."""
    landmarks, boxes = locate_groups(Groups(people, scenes, 1), size)
    return landmarks[:, 0], boxes[:, 0]


def locate_groups(groups: Groups, size: Size = (192, 128)) -> tuple[Tensor, Tensor]:
    """Landmarks (B, P, 5, 2) and boxes (B, P, 4) of pictures, as `GroupPortraits` has them, without drawing."""
    return _places(_heads(groups), groups.count, *sides(size))


def sides(size: Size) -> tuple[int, int]:
    """Width and height."""
    return (size, size) if isinstance(size, int) else size


def _traits(table: Table, row: int) -> Traits:
    """A row of a table: plain numbers, names for categories, colours (3,)."""
    out: dict[str, Any] = {}
    for f in fields(table):
        value = getattr(table, f.name)[row]
        if f.name in _NAMES:
            out[f.name] = _NAMES[f.name][value]
        elif f.name in _COLORS:
            name, colors = _COLORS[f.name]
            out[name] = np.array(list(colors.values())[value], np.float32) / 255
        else:
            out[f.name] = value if value.ndim else value.item()
    if "hair_rgb" in out:
        out["hair_rgb"] = np.clip(out["hair_rgb"] * np.float32(out["hair_shade"]), 0, 1)
    if "arms" in out and framing(out["scale"]) in ("portrait", "close-up"):
        out["arms"] = "down"
    return SimpleNamespace(**out)


def _heads(groups: Groups) -> list[list[Head]]:
    """The people of every picture, left to right."""
    heads = [Head(_traits(groups.people, row), _traits(groups.scenes, row)) for row in range(len(groups.people))]
    return [heads[i : i + groups.count] for i in range(0, len(heads), groups.count)]


def _view(canvas: Canvas, head: Head, owner: int, *, turned: bool) -> View:
    """The coordinates of a head, or of the body under it, which does not tilt with it."""
    s = head.s
    unit = 128 * canvas.unit / 2  # relative to a picture of 128 pixels: the pen is never thinner than it can be
    ink = _INK.get(s.style, 0.0) * (1 + unit / 8)
    relief = 0.35 if s.style in ("flat", "poster") else 1.0
    side = {"right": 1.0, "left": -1.0}.get(s.light, 0.0)
    view = View(canvas, owner, s.center_x, s.center_y, s.scale, s.roll, ink, relief, canvas.labels[:0, :0] * 1.0)
    du, dv = (canvas.u - s.center_x) / s.scale, (canvas.v - s.center_y) / s.scale
    x, y = view.cos * du + view.sin * dv, view.cos * dv - view.sin * du
    view.light = (1 + relief * (
        0.3 * side * s.light_strength * np.clip(x / 0.9, -1.2, 1.2)
        - 0.10 * np.clip(y / 1.1, -1, 1.3)
        - 0.10 * np.minimum((x / head.p.face_width) ** 2, 1.5)
    )).astype(np.float32)  # fmt: skip
    if turned:
        return view
    hang = 0.6 * s.scale * view.sin * head.p.face_height  # the neck starts where the tilted chin is
    return View(canvas, owner, s.center_x - hang, s.center_y, s.scale, 0.0, ink, relief, view.light)


def _paint(heads: list[Head], width: int, height: int) -> Canvas:
    canvas = Canvas(width, height)
    paint_background(canvas, heads[0].s)
    for number in sorted(range(len(heads)), key=lambda k: heads[k].s.scale):  # the nearest last
        _paint_person(canvas, heads[number], number + 1)
    finish.apply_style(canvas, heads[0].s)
    return canvas


def _paint_person(canvas: Canvas, head: Head, owner: int) -> None:
    body = _view(canvas, head, owner, turned=False)
    view = _view(canvas, head, owner, turned=True)
    hair.paint_back(view, head)
    paint_body(body, head)
    face.paint_skull(view, head)
    face.paint_ears(view, head)
    face.paint_face(view, head)
    hair.paint_beard(view, head)
    face.paint_nose(view, head)
    face.paint_mouth(view, head)
    face.paint_eyes(view, head)
    face.paint_brows(view, head)
    glasses.paint_glasses(view, head)
    hair.paint_front(view, head)
    paint_hat(view, head)


def _places(heads: list[list[Head]], count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    unit = min(width, height) / 2
    middle = np.array([width, height], np.float32) / 2
    landmarks: Array = np.zeros((len(heads), count, 5, 2), np.float32)
    boxes: Array = np.zeros((len(heads), count, 4), np.float32)
    for i, members in enumerate(heads):
        for k, head in enumerate(members):
            s = head.s
            cos, sin = np.cos(s.roll), np.sin(s.roll)

            turn = np.array([[cos, sin], [-sin, cos]]) * s.scale * unit
            origin = middle + np.array([s.center_x, s.center_y]) * unit
            landmarks[i, k] = np.asarray(head.points()) @ turn + origin
            left, top, right, bottom = head.box()
            # The outline is an ellipse, about: so far it reaches when tilted, and no landmark is outside.
            mx, my, rx, ry = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
            center = np.array([mx, my]) @ turn + origin
            reach = np.array([np.hypot(rx * cos, ry * sin), np.hypot(rx * sin, ry * cos)]) * s.scale * unit
            low = np.minimum(center - reach, landmarks[i, k].min(0))
            high = np.maximum(center + reach, landmarks[i, k].max(0))
            boxes[i, k] = (*low, *high)
    return torch.from_numpy(landmarks), torch.from_numpy(boxes)
