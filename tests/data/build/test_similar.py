"""Copies are found whatever was done to them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from consistentid.data.build.similar import NEAR, near_duplicates, perceptual_hash
from consistentid.drawn.portraits import draw, sample_people, sample_scenes


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    people = sample_people(range(12), split="test")
    scenes = sample_scenes([(person, 0) for person in range(12)], split="test")
    return [Image.fromarray(pixels) for pixels in draw(people, scenes, 96).pixels()]


def test_copies_have_nearly_the_hash_of_the_original(drawn: list[Image.Image]) -> None:
    for image in drawn[:4]:
        compressed = io.BytesIO()
        image.save(compressed, "JPEG", quality=40)
        copies = [Image.open(compressed), image.resize((61, 61)), ImageEnhance.Brightness(image).enhance(0.8)]
        assert max((perceptual_hash(image) ^ perceptual_hash(copy)).bit_count() for copy in copies) <= NEAR


def test_different_pictures_are_no_duplicates(drawn: list[Image.Image]) -> None:
    assert near_duplicates([perceptual_hash(image) for image in drawn]) == {}


def test_duplicates_name_the_earliest_also_through_others() -> None:
    far = 0xF0F0_1234_5678_9ABC
    near, nearer = 0b1111, 0b1111_1111  # each four bits from the one before
    assert near_duplicates([far, 0, near, nearer, far ^ (1 << 63), far ^ 0b11111]) == {2: 1, 3: 1, 4: 0}
    assert near_duplicates([]) == {}


def test_every_pair_within_reach_is_found() -> None:
    """Whichever bits differ: the bands must not miss any."""
    random = np.random.default_rng(0)
    for _ in range(50):
        one = int(random.integers(2**63))
        other = one
        for bit in random.choice(64, NEAR, replace=False):
            other ^= 1 << int(bit)
        assert near_duplicates([one, other]) == {1: 0}
