"""A picture being painted back to front, with the labels, the owners and the ink that follow every shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consistentid.drawn.portraits.shapes import Array, Number

INK = (0.07, 0.06, 0.09)
WHITE = (0.96, 0.96, 0.95)

Color = Array | tuple[float, float, float]
"""(3,) or (3, h, w), RGB in [0, 1]."""


class Canvas:
    """One picture: ``rgb`` (3, H, W) in [0, 1], ``labels`` (H, W) in CelebAMask-HQ numbering, and ``owners`` (H, W).

    Picture coordinates are 0 in the middle and in [-1, 1] along the shorter side. An owner is 0 where nobody is, and
    else 1 + the number of the person whose body, hair, clothes or jewellery is seen there.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.unit = 2 / min(width, height)  # of a pixel, in picture coordinates
        self.rgb = np.zeros((3, height, width), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.owners = np.zeros((height, width), np.uint8)
        self.u = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * self.unit)[None, :]
        self.v = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * self.unit)[:, None]

    def window(self, u: float, v: float, half_u: float, half_v: float) -> tuple[slice, slice]:
        """Rows and columns of the pixels in a box around (u, v) and of those next to it."""

        def cut(middle: float, half: float, count: int) -> slice:
            first = math.floor((middle - half) / self.unit + count / 2) - 1
            last = math.ceil((middle + half) / self.unit + count / 2) + 1
            return slice(min(max(first, 0), count), min(max(last, 0), count))

        return cut(v, half_v, self.height), cut(u, half_u, self.width)


@dataclass
class View:
    """Coordinates of a person on a canvas: where their origin is, how long their unit and how far they are turned.

    Attributes:
        owner: 1 + the number of the person.
        ink: width of outlines in the view's units; 0 for styles without.
        relief: how strongly shapes are shaded, 0 flat to 1.
        light: (H, W) factor of the canvas on all that is lit.
    """

    canvas: Canvas
    owner: int
    center_x: float
    center_y: float
    scale: float
    roll: float
    ink: float
    relief: float
    light: Array

    def __post_init__(self) -> None:
        self.pixel = self.canvas.unit / self.scale
        self.cos, self.sin = math.cos(self.roll), math.sin(self.roll)

    def seen(self, x: float, y: float) -> tuple[float, float]:
        """Picture coordinates of a point."""
        return (
            self.center_x + self.scale * (self.cos * x - self.sin * y),
            self.center_y + self.scale * (self.sin * x + self.cos * y),
        )

    def patch(self, x: float, y: float, reach_x: float, reach_y: float) -> Patch:
        """The pixels around (x, y), as far as a shape reaches whose coordinates are relative to that point."""
        u, v = self.seen(x, y)
        cos, sin = abs(self.cos), abs(self.sin)
        reach_x, reach_y = reach_x + self.ink, reach_y + self.ink
        half_u, half_v = self.scale * (cos * reach_x + sin * reach_y), self.scale * (sin * reach_x + cos * reach_y)
        rows, columns = self.canvas.window(u, v, half_u, half_v)
        du, dv = (self.canvas.u[:, columns] - u) / self.scale, (self.canvas.v[rows] - v) / self.scale
        if self.roll == 0:
            return Patch(self, rows, columns, du, dv)
        return Patch(self, rows, columns, self.cos * du + self.sin * dv, self.cos * dv - self.sin * du)


@dataclass
class Patch:
    """Some pixels of a canvas and their coordinates ``x``, ``y``, which broadcast to (h, w)."""

    view: View
    rows: slice
    columns: slice
    x: Array
    y: Array

    def __post_init__(self) -> None:
        self.rgb: Array = self.view.canvas.rgb[:, self.rows, self.columns]
        self.labels: NDArray[np.uint8] = self.view.canvas.labels[self.rows, self.columns]
        self.owners: NDArray[np.uint8] = self.view.canvas.owners[self.rows, self.columns]

    def __bool__(self) -> bool:
        return self.labels.size > 0

    def moved(self, x: Number, y: Number) -> Patch:
        """The same pixels, their coordinates relative to another point."""
        return Patch(self.view, self.rows, self.columns, self.x - x, self.y - y)

    def lit(self, rgb: Color, factor: Number = 1.0) -> Array:
        """A colour (3, h, w) under the light of the scene."""
        light = self.view.light[self.rows, self.columns] * factor
        return np.asarray(rgb, np.float32).reshape(3, *(np.shape(rgb)[1:] or (1, 1))) * light

    def coverage(self, distance: Array) -> Array:
        """Share of every pixel that lies inside the shape."""
        cover = distance * np.float32(-1 / self.view.pixel)
        cover += 0.5
        return np.clip(cover, 0, 1, out=cover)

    def fill(
        self,
        distance: Array,
        rgb: Color,
        label: int | None = None,
        *,
        alpha: Number = 1.0,
        outline: bool = True,
        rim: float = 0.0,
    ) -> None:
        """Paint a shape.

        Args:
            distance: (h, w) of the shape, negative inside.
            rgb: of the paint.
            label: of the pixels that are more than half covered, which become the person's own; None leaves both.
            alpha: opacity.
            outline: whether styles with ink draw the edge.
            rim: darkens the edge, over so many units, as if the shape were round.
        """
        if distance.shape != self.labels.shape:
            distance = np.broadcast_to(distance, self.labels.shape)
        cover = self.coverage(distance)
        if label is not None:
            mask = cover > 0.5
            np.copyto(self.labels, np.uint8(label), where=mask)
            np.copyto(self.owners, np.uint8(self.view.owner), where=mask)
        paint: Array = np.asarray(rgb, np.float32)
        if paint.ndim == 1:
            paint = paint[:, None, None]
        if rim and self.view.relief:
            edge = np.clip(1 + distance / rim, 0, 1)
            edge *= edge * (-0.3 * self.view.relief)
            edge += 1
            paint = paint * edge
        self.tint(cover if isinstance(alpha, float) and alpha == 1 else cover * alpha, paint)
        if outline and self.view.ink:
            half = self.view.ink / 2
            line = self.coverage(np.abs(distance + half) - half) * 0.85
            if not (isinstance(alpha, float) and alpha == 1):
                line *= alpha
            self.tint(line, np.asarray(INK, np.float32)[:, None, None])

    def tint(self, amount: Array, rgb: Color) -> None:
        """Mix a colour into every pixel by ``amount`` (h, w)."""
        paint = np.asarray(rgb, np.float32)
        change = (paint[:, None, None] if paint.ndim == 1 else paint) - self.rgb
        change *= amount
        self.rgb += change

    def shade(self, amount: Array) -> None:
        """Darken the person's own pixels by ``amount`` (h, w), as a shadow does."""
        self.rgb *= 1 - amount * (self.owners == self.view.owner)

    def shade_ground(self, distance: Array) -> None:
        """The soft shadow of a shape on what is painted already."""
        self.rgb *= 1 - 0.35 * np.clip(-distance / 0.12, 0, 1)
