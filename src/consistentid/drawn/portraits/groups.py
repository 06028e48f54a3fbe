"""Several people in one picture: who stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consistentid.drawn.portraits.people import People, sample_people
from consistentid.drawn.portraits.sampling import SPLITS, Columns, generator
from consistentid.drawn.portraits.scenes import Scenes, sample_scenes
from consistentid.errors import InputError

_SHARED = ("background", "background_color", "background_phase", "style", "light", "light_strength")


@dataclass(frozen=True)
class Groups:
    """Pictures of `count` people each, who stand side by side.

    Person k of picture i, from the left, is row i * count + k of the tables. Light, background and style are the same
    in all rows of a picture; where one person hides another, the one of the larger scale is nearer.
    """

    people: People
    scenes: Scenes
    count: int

    def __len__(self) -> int:
        return len(self.people) // self.count

    def __getitem__(self, pictures: Sequence[int] | NDArray[np.int64]) -> Groups:
        rows = (np.asarray(pictures)[:, None] * self.count + np.arange(self.count)).ravel()
        return Groups(self.people[rows], self.scenes[rows], self.count)


def sample_groups(
    keys: Sequence[tuple[Sequence[int], int]], *, split: str = "train", seed: int = 0, aspect: float = 1.5
) -> Groups:
    """Groups for keys (numbers of the people from left to right, number of the scene).

    Deterministic by split, seed, key and aspect; the people are those of `sample_people`.

    Args:
        keys: as many people in each, everybody once.
        aspect: width of the pictures over their height, at least 1.

    Raises:
        InputError: keys with nobody, with different numbers of people, or with one person twice.
    """
    sizes = {len(members) for members, _ in keys}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"groups of {sorted(sizes)} people: give as many people, one or more, in every group")
    if twice := next((members for members, _ in keys if len(set(members)) < len(members)), None):
        raise InputError(f"group {tuple(twice)}: holds somebody twice; give different people")
    [count] = sizes
    flat = [(person, scene) for members, scene in keys for person in members]
    people = sample_people([person for person, _ in flat], split=split, seed=seed)
    scenes = sample_scenes(flat, split=split, seed=seed)
    # A picture's own numbers: by everyone in it, so that other company stands otherwise.
    mixed = [sum(person * 1_000_003**k for k, person in enumerate(members)) % 2**31 for members, _ in keys]
    u = Columns(
        [(SPLITS[split] + 16 * seed + 8, mix << 32 | scene) for mix, (_, scene) in zip(mixed, keys, strict=True)], 32
    )
    slot = aspect / count  # half the width that a person has
    # Head and shoulders mostly; sometimes farther away, down to the knees.
    far = u.chance(0.3)
    base = np.where(far, np.clip(u.uniform(0.42, 0.62) * slot, 0.22, 0.36), u.uniform(0.60, 0.76) * min(slot, 0.78))
    closeness = u.uniform(0.84, 0.97)
    columns: dict[str, list[NDArray[np.float32]]] = {"center_x": [], "center_y": [], "scale": []}
    for k in range(count):
        scale = base * u.uniform(0.9, 1.1)
        middle = aspect * ((2 * k + 1) / count - 1) * np.where(far, 0.85, 1.0) * closeness
        columns["scale"].append(scale)
        columns["center_x"].append(middle + slot * u.bell(-0.14, 0.14))
        # Hats fit in; who is farther away stands a little higher.
        feet = 0.94 - 6.0 * scale
        lowest = np.where(far, np.maximum(-1 + 1.75 * scale, feet), -0.02 - 0.30 * (0.62 - scale))
        columns["center_y"].append(lowest + np.where(far, 0.03, 0.16) * u.uniform() + 0.35 * (scale - base))
    placed: dict[str, Any] = {name: np.stack(each, 1).ravel().astype(np.float32) for name, each in columns.items()}
    first = np.arange(len(flat)) // count * count
    shared: dict[str, Any] = {name: getattr(scenes, name)[first] for name in _SHARED}
    return Groups(people, replace(scenes, **placed, **shared), count)


def with_company(
    keys: Sequence[tuple[int, int]], among: Sequence[int], count: int, *, split: str = "train", seed: int = 0
) -> list[tuple[tuple[int, ...], int]]:
    """Keys of groups for keys (person, number of the scene): that person and others, in an order of chance.

    Args:
        among: numbers of the people from whom the others are taken.
        count: people in each group.

    Raises:
        InputError: there are not so many.
    """
    if count > len(among):
        raise InputError(f"{count} people in a picture: there are only {len(among)}; draw more people")
    groups = []
    for person, scene in keys:
        rng = generator(split, seed, 12, person, scene)
        others = [among[i] for i in rng.permutation(len(among))[:count] if among[i] != person][: count - 1]
        members = [person, *others]
        groups.append((tuple(members[i] for i in rng.permutation(count)), scene))
    return groups
