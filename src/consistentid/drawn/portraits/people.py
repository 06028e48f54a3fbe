"""People: the traits that make a drawn person recognisable, and how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistentid.drawn.portraits.sampling import SPLITS, Columns, Table

__all__ = ["PART_TRAITS", "SPLITS", "People", "sample_people", "with_parts_of"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SKIN = np.array(
    [
        [255, 224, 200], [246, 205, 174], [232, 182, 144], [212, 158, 116],
        [184, 126, 84], [148, 96, 62], [112, 70, 46], [78, 48, 34],
    ],
    np.float32,
) / 255  # fmt: skip
HAIR = {
    "black": (28, 24, 28),
    "dark brown": (66, 42, 28),
    "brown": (112, 72, 40),
    "red": (176, 68, 28),
    "blonde": (226, 188, 104),
    "grey": (150, 150, 154),
    "white": (232, 230, 226),
    "pink": (232, 112, 168),
    "blue": (62, 104, 196),
}
EYES = {
    "dark brown": (54, 32, 20),
    "brown": (118, 70, 32),
    "hazel": (150, 122, 50),
    "green": (62, 148, 84),
    "blue": (58, 122, 214),
    "grey": (138, 148, 160),
}
HAIRSTYLES = ("bald", "buzz-cut", "short", "side-parted", "bobbed", "long", "wavy", "curly", "bun", "mohawk")
HIDES_EARS = ("bobbed", "long", "wavy", "curly")
FRINGES = ("none", "straight", "swept")
BEARDS = ("none", "stubble", "moustache", "goatee", "full beard")


@dataclass(frozen=True)
class People(Table):
    """Traits of people, one row each. Lengths are in head units (the face is about 2 units high)."""

    woman: NDArray[np.bool_]
    age: Floats  # 0 young ... 1 old
    # outline
    face_width: Floats
    face_height: Floats
    jaw: Floats  # 0 wide ... 1 pointed
    squareness: Floats  # exponent of the outline
    skin: Floats  # (rows, 3) RGB in [0, 1]
    blush: Floats
    freckles: NDArray[np.bool_]
    mole: NDArray[np.bool_]
    mole_x: Floats
    mole_y: Floats
    # eyes and brows
    eye_color: Ints
    eye_width: Floats
    eye_height: Floats
    eye_tilt: Floats
    eye_spacing: Floats
    eye_level: Floats
    lashes: Floats
    brow_weight: Floats
    brow_arch: Floats
    brow_tilt: Floats
    brow_gap: Floats
    # nose, mouth, ears
    nose_length: Floats
    nose_width: Floats
    nose_tip: Floats
    nose_bridge: Floats
    mouth_width: Floats
    mouth_level: Floats
    upper_lip: Floats
    lower_lip: Floats
    lip_color: Floats  # 0 skin-like ... 1 red
    ear_size: Floats
    ear_angle: Floats
    # hair
    hair_color: Ints
    hair_shade: Floats
    hairstyle: Ints
    hair_volume: Floats
    hair_length: Floats
    hairline: Floats
    fringe: Ints
    parting: Floats
    beard: Ints
    beard_length: Floats


PART_TRAITS = {
    "face": ("face_width", "face_height", "jaw", "squareness"),
    "eyes": ("eye_color", "eye_width", "eye_height", "eye_tilt", "lashes"),
    "ears": ("ear_size", "ear_angle"),
    "nose": ("nose_length", "nose_width", "nose_tip", "nose_bridge"),
    "mouth": ("mouth_width", "upper_lip", "lower_lip", "lip_color"),
}
"""The traits that make a part what it is, wherever in the face it sits."""


def with_parts_of(people: People, others: People, parts: Sequence[str]) -> People:
    """The same people, each with one part of another: row i has the part ``parts[i]`` of row i of ``others``."""
    changed: dict[str, Any] = {}
    for part, traits in PART_TRAITS.items():
        taken = np.array(parts) == part
        changed |= {name: np.where(taken, getattr(others, name), getattr(people, name)) for name in traits}
    return replace(people, **changed)


def sample_people(indices: int | Sequence[int], *, split: str = "train", seed: int = 0) -> People:
    """People number ``indices`` (or the first ``indices``) of a split.

    People of different splits, seeds and indices are different; the same three always give the same person.
    """
    rows = range(indices) if isinstance(indices, int) else indices
    u = Columns([(SPLITS[split] + 16 * seed, 2 * i) for i in rows])
    woman = u.chance(0.5)
    age = u.uniform() ** 1.4
    tone = u.uniform(0, len(SKIN) - 1.001)
    low = tone.astype(int)
    skin = SKIN[low] + (tone - low)[:, None] * (SKIN[low + 1] - SKIN[low])
    skin = skin * (1 + np.stack([u.uniform(-0.03, 0.03) for _ in range(3)], -1))
    fair = 1 - tone / (len(SKIN) - 1)  # 1 for the fairest skin

    grey = np.clip((age - 0.55) * 2.2, 0, 1)
    natural = 1 - grey
    hair_weights = np.stack(
        [
            natural * (1.1 - 0.4 * fair),
            natural * 0.9,
            natural * (0.3 + 0.6 * fair),
            natural * (0.05 + 0.6 * fair),
            natural * (0.05 + 0.9 * fair),
            grey * 1.5 + 0.02,
            grey * 1.2 + 0.01,
            np.where(woman, 0.1, 0.04) * natural,
            np.where(woman, 0.08, 0.06) * natural,
        ],
        -1,
    )
    eye_weights = np.stack(
        [
            1.1 - 0.7 * fair,
            np.full_like(fair, 0.8),
            0.2 + 0.4 * fair,
            0.08 + 0.8 * fair,
            0.08 + 1.0 * fair,
            0.05 + 0.4 * fair,
        ],
        -1,
    )
    style_weights = np.where(
        woman[:, None],
        np.array([[0.02, 0.04, 0.12, 0.12, 0.25, 0.28, 0.25, 0.2, 0.2, 0.04]]),
        np.array([[0.16, 0.16, 0.34, 0.26, 0.03, 0.06, 0.05, 0.12, 0.04, 0.08]]),
    )
    return People(
        woman=woman,
        age=age.astype(np.float32),
        face_width=u.bell(0.56, 0.88) - np.where(woman, 0.02, 0).astype(np.float32),
        face_height=u.bell(0.82, 1.08),
        jaw=u.uniform(0.0, 0.8) + np.where(woman, 0.15, 0).astype(np.float32),
        squareness=u.uniform(1.85, 2.9),
        skin=np.clip(skin, 0, 1).astype(np.float32),
        blush=u.uniform(0, 1) * np.where(woman, 0.5, 0.25).astype(np.float32),
        freckles=u.chance(0.05 + 0.25 * fair),
        mole=u.chance(0.18),
        mole_x=u.uniform(-0.6, 0.6),
        mole_y=u.uniform(0.15, 0.55),
        eye_color=u.choice(eye_weights),
        eye_width=u.uniform(0.15, 0.24),
        eye_height=u.uniform(0.075, 0.15),
        eye_tilt=u.uniform(-0.22, 0.28),
        eye_spacing=u.uniform(0.29, 0.40),
        eye_level=u.uniform(-0.18, -0.02),
        lashes=u.uniform(0, 0.6) + np.where(woman, 0.4, 0).astype(np.float32),
        brow_weight=u.uniform(0.025, 0.075) + np.where(woman, 0, 0.015).astype(np.float32),
        brow_arch=u.uniform(-0.02, 0.11),
        brow_tilt=u.uniform(-0.22, 0.22),
        brow_gap=u.uniform(0.15, 0.27),
        nose_length=u.uniform(0.26, 0.46),
        nose_width=u.uniform(0.09, 0.21),
        nose_tip=u.uniform(0.0, 1.0),
        nose_bridge=u.uniform(0.03, 0.08),
        mouth_width=u.uniform(0.18, 0.36),
        mouth_level=u.uniform(0.13, 0.22),
        upper_lip=u.uniform(0.02, 0.065),
        lower_lip=u.uniform(0.03, 0.09),
        lip_color=u.uniform(0.15, 0.6) + np.where(woman, 0.35, 0).astype(np.float32),
        ear_size=u.uniform(0.14, 0.26),
        ear_angle=u.uniform(0.0, 0.5),
        hair_color=u.choice(hair_weights),
        hair_shade=u.uniform(0.85, 1.15),
        hairstyle=u.choice(style_weights),
        hair_volume=u.uniform(0.06, 0.22),
        hair_length=u.uniform(0.0, 1.0),
        hairline=u.uniform(-0.68, -0.5) - (0.12 * age * ~woman).astype(np.float32),
        fringe=u.choice(np.where(woman[:, None], [[0.45, 0.3, 0.25]], [[0.6, 0.12, 0.28]])),
        parting=u.uniform(-0.5, 0.5),
        beard=u.choice(np.where(woman[:, None], [[1.0, 0, 0, 0, 0]], [[0.45, 0.12, 0.14, 0.12, 0.17]])),
        beard_length=u.uniform(0.0, 1.0),
    )
