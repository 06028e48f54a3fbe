"""The head: where its features lie under a pose and an expression."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from consistentid.drawn.portraits import shapes
from consistentid.drawn.portraits.canvas import Patch, View
from consistentid.drawn.portraits.shapes import Array

Traits = SimpleNamespace
"""One row of a table: numbers as Python's, categories as their names, colours as (3,) arrays in [0, 1]."""

Point = tuple[float, float]

_MOODS = {
    #             smile  open  raise  knit  squint
    "neutral":   (0.18, 0.00, 0.00, 0.00, 0.00),
    "smiling":   (0.85, 0.00, 0.15, 0.00, 0.25),
    "laughing":  (1.00, 0.90, 0.35, 0.00, 0.55),
    "sad":       (-0.95, 0.00, 0.10, -0.90, 0.15),
    "angry":     (-0.60, 0.00, -0.45, 1.00, 0.10),
    "surprised": (0.00, 1.00, 1.00, -0.10, -0.40),
}  # fmt: skip
"""What an expression does to the face: corners of the mouth up, mouth open, brows up, brows together, eyes narrow."""


class Head:
    """A head in a scene, in head units: the face is about 2 units high and its middle is the origin.

    A point (x, y, z), z its height above the middle of the head, is seen at (x cos(yaw) + z sin(yaw),
    y + z sin(pitch)); so the nose moves more than the eyes, and the ears move the other way.
    """

    def __init__(self, p: Traits, s: Traits) -> None:
        self.p, self.s = p, s
        self.sin, self.cos, self.nod = math.sin(s.yaw), math.cos(s.yaw), math.sin(s.pitch)
        mood = _MOODS[s.expression]
        self.smile, self.open, self.brow_raise, self.brow_knit, self.squint = (x * s.intensity for x in mood)
        self.teeth = s.expression == "angry" and s.intensity > 0.85  # bared
        # The face turns towards the side it looks to, and the back of the head comes forward on the other.
        self.face_x = 0.2 * self.sin
        self.face_width = p.face_width * (1 - 0.12 * abs(self.sin))
        self.skull_x, self.skull_width = -0.14 * self.sin, p.face_width * (1 + 0.06 * abs(self.sin))

    def place(self, x: float, y: float, z: float) -> Point:
        """Where a point of the head is seen."""
        return x * self.cos + z * self.sin, y + z * self.nod

    def squeeze(self, x: float) -> float:
        """How much narrower things are seen at x of the face than from the front."""
        found: float = min(1.0, max(0.35, self.cos - self.sin * 0.62 * x / self.p.face_width))
        return found

    def eye(self, side: int) -> Point:
        """Centre of an eye."""
        x, y = self.place(side * self.p.eye_spacing, self.p.eye_level, 0.5)
        # The far one stays on the face.
        reach = self.face_width - self.p.eye_width * self.squeeze(side * self.p.eye_spacing) - 0.01
        return min(max(x, self.face_x - reach), self.face_x + reach), y

    def tip(self) -> Point:
        """Tip of the nose."""
        return self.place(0.0, self.p.eye_level + self.p.nose_length, 0.8)

    def mouth(self) -> tuple[float, float, float]:
        """Middle of the mouth (x, y) and its half width."""
        p = self.p
        wider = 0.18 * max(self.smile, 0.0) - (0.42 * self.open if self.smile < 0.2 else 0.0)
        x, y = self.place(0.0, p.eye_level + p.nose_length + p.mouth_level + 0.03, 0.56)
        return x, y, p.mouth_width * (1 + wider) * (0.55 + 0.45 * self.cos)

    def lift(self) -> float:
        """How far the corners of the mouth are above (+) its middle."""
        found: float = 0.17 * self.smile * self.mouth()[2] / 0.3
        return found

    def points(self) -> list[Point]:
        """The five landmarks: eyes, tip of the nose, corners of the mouth; the picture's left first."""
        x, y, width = self.mouth()
        corner = y - self.lift()
        return [self.eye(-1), self.eye(1), self.tip(), (x - width, corner), (x + width, corner)]

    def outline(self, patch: Patch) -> Array:
        """Distance to the outline of the face; the coordinates of the patch are the head's."""
        p = self.p
        x, y = patch.x - self.face_x, patch.y - 0.1 * self.nod
        down = np.clip(y / p.face_height, 0, 1)
        half = self.face_width * (1 - 0.44 * p.jaw * down**1.7 + 0.06 * (1 - p.jaw) * down)
        return shapes.superellipse(x, y, half, p.face_height, p.squareness)

    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the face, from forehead to chin, with all landmarks in it."""
        xs = [x for x, _ in self.points()]
        left, right = self.face_x - self.face_width, self.face_x + self.face_width
        return min(left, *xs), -self.p.face_height, max(right, *xs), self.p.face_height


def picture_points(head: Head, view: View) -> list[Point]:
    """Picture coordinates of the landmarks."""
    return [view.seen(*point) for point in head.points()]
