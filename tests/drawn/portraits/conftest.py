from __future__ import annotations

from dataclasses import dataclass

import pytest

from consistentid.drawn.portraits import People, Portraits, Scenes, draw, sample_people, sample_scenes


@dataclass(frozen=True)
class Sample:
    people: People
    scenes: Scenes
    drawn: Portraits
    size: int


@pytest.fixture(scope="session")
def sample() -> Sample:
    """256 people in a scene each, 64 pixels: so many that everything that can be drawn is."""
    people = sample_people(256, split="validation", seed=5)
    scenes = sample_scenes([(i, 0) for i in range(256)], split="validation", seed=5)
    return Sample(people, scenes, draw(people, scenes, 64), 64)
