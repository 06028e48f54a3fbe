"""Scenes: everything about a portrait that is not the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consistentid.drawn.portraits.sampling import SPLITS, Columns, Table

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

COLORS = {
    "red": (206, 40, 44),
    "orange": (238, 130, 36),
    "yellow": (244, 208, 60),
    "green": (52, 150, 70),
    "blue": (44, 92, 196),
    "purple": (128, 62, 168),
    "pink": (240, 134, 176),
    "white": (240, 240, 236),
    "black": (36, 36, 42),
    "grey": (134, 138, 144),
}
EXPRESSIONS = ("neutral", "smiling", "laughing", "sad", "angry", "surprised")
CLOTHES = ("t-shirt", "shirt", "suit", "sweater", "hoodie", "dress")
HATS = ("none", "hat", "cap", "beanie", "crown", "headband")
GLASSES = ("none", "round glasses", "square glasses", "sunglasses")
BACKGROUNDS = (
    "plain", "studio", "forest", "beach", "mountains", "city at night", "starry night", "snow", "sunset", "wallpaper",
)  # fmt: skip
STYLES = ("flat", "shaded", "ink", "watercolor", "pencil", "poster")
LIGHTS = ("even", "left", "right", "warm", "cool")
ARMS = ("down", "hips", "waving")
FRAMINGS = {
    "close-up": ((0.72, 0.95), (-0.04, 0.10)),
    "portrait": ((0.54, 0.62), (-0.10, 0.04)),
    "half-length": ((0.28, 0.38), (-0.48, -0.36)),
    "full-length": ((0.225, 0.25), (-0.60, -0.53)),
}
"""Name of a framing -> ranges of the scale and of the height of the head's middle in the picture."""

_BORDERS = {"full-length": 0.265, "half-length": 0.45, "portrait": 0.67}


def framing(scale: float) -> str:
    """How much of a person a picture shows, by the scale of the scene: a name of `FRAMINGS`."""
    return next((name for name, below in _BORDERS.items() if scale < below), "close-up")


def clothes_seen(scenes: Scenes) -> NDArray[np.bool_]:
    """Whether enough of a person is in the picture to tell the clothes; (rows,)."""
    seen: NDArray[np.bool_] = (1 - scenes.center_y) / scenes.scale > 1.45  # head units down to the lower edge
    return seen


@dataclass(frozen=True)
class Scenes(Table):
    """Factors of scenes, one row each. Angles are in radians, positions and scale in halves of the shorter side."""

    yaw: Floats  # positive: turned to the picture's right
    pitch: Floats  # positive: looking down
    roll: Floats
    center_x: Floats
    center_y: Floats
    scale: Floats  # of a head unit: half the height of a face, about
    expression: Ints
    intensity: Floats
    gaze_x: Floats
    gaze_y: Floats
    eyes_closed: NDArray[np.bool_]
    light: Ints
    light_strength: Floats
    clothes: Ints
    clothes_color: Ints
    hat: Ints
    hat_color: Ints
    glasses: Ints
    earrings: NDArray[np.bool_]
    necklace: NDArray[np.bool_]
    background: Ints
    background_color: Ints
    background_phase: Floats
    style: Ints
    arms: Ints  # seen where the picture shows more than head and shoulders


def sample_scenes(
    keys: Sequence[tuple[int, int]], *, split: str = "train", seed: int = 0, framing: str | None = None
) -> Scenes:
    """Scenes for keys (person, number of the scene); deterministic by split, seed and key.

    Args:
        framing: a name of `FRAMINGS` that all scenes have; None = most are portraits, some are not.
    """
    u = Columns([(SPLITS[split] + 16 * seed, (2 * person + 1) | (scene << 32)) for person, scene in keys], 64)
    scenes = Scenes(
        yaw=u.bell(-0.7, 0.7),
        pitch=u.bell(-0.2, 0.2),
        roll=u.bell(-0.22, 0.22),
        center_x=u.bell(-0.1, 0.1),
        center_y=u.bell(0, 1),
        scale=u.uniform(0, 1),
        expression=u.choice([0.3, 0.27, 0.13, 0.1, 0.1, 0.1]),
        intensity=u.uniform(0.6, 1.1),
        gaze_x=u.bell(-1, 1),
        gaze_y=u.bell(-0.7, 0.7),
        eyes_closed=u.chance(0.04),
        light=u.choice([0.4, 0.18, 0.18, 0.12, 0.12]),
        light_strength=u.uniform(0.5, 1.0),
        clothes=u.choice([0.25, 0.15, 0.15, 0.17, 0.14, 0.14]),
        clothes_color=u.choice([1.0] * len(COLORS)),
        hat=u.choice([0.55, 0.12, 0.09, 0.1, 0.06, 0.08]),
        hat_color=u.choice([1.0] * len(COLORS)),
        glasses=u.choice([0.68, 0.12, 0.12, 0.08]),
        earrings=u.chance(0.12),
        necklace=u.chance(0.12),
        background=u.choice([0.16, 0.12, 0.1, 0.1, 0.09, 0.09, 0.08, 0.08, 0.09, 0.09]),
        background_color=u.choice([1.0] * len(COLORS)),
        background_phase=u.uniform(0, 1),
        style=u.choice([0.26, 0.3, 0.16, 0.1, 0.06, 0.12]),
        arms=u.choice([0.55, 0.2, 0.25]),
    )
    drawn = u.choice([0.15, 0.6, 0.15, 0.1])
    chosen = drawn if framing is None else np.full_like(drawn, list(FRAMINGS).index(framing))
    ranges = np.array(list(FRAMINGS.values()), np.float32)[chosen]  # (rows, scale or height, low or high)
    low, width = ranges[..., 0], ranges[..., 1] - ranges[..., 0]
    return replace(
        scenes, scale=low[:, 0] + width[:, 0] * scenes.scale, center_y=low[:, 1] + width[:, 1] * scenes.center_y
    )
