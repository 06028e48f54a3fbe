"""The tables that everything is drawn from: same key, same row; other key, another."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from consistentid.drawn.portraits import SPLITS, sample_people, sample_scenes
from consistentid.drawn.portraits.sampling import Columns, Table


def assert_equal(a: Table, b: Table) -> None:
    assert type(a) is type(b)
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y, f.name)


def rows_of(table: Table) -> list[bytes]:
    return [
        b"".join(np.ascontiguousarray(getattr(table, f.name)[i]).tobytes() for f in fields(table))
        for i in range(len(table))
    ]


def test_same_key_same_row_whatever_stands_around_it() -> None:
    people = sample_people(50, split="test", seed=3)
    assert_equal(sample_people([7, 31], split="test", seed=3), people[[7, 31]])
    assert_equal(sample_people(range(20, 30), split="test", seed=3), people[20:30])
    keys = [(p, s) for p in range(8) for s in range(4)]
    scenes = sample_scenes(keys, split="test", seed=3)
    assert_equal(sample_scenes([keys[13]], split="test", seed=3), scenes[[13]])
    assert_equal(sample_scenes(keys[::-1], split="test", seed=3), scenes[::-1])


def test_no_person_is_in_two_splits_or_seeds() -> None:
    rows = [
        row for split in SPLITS for seed in (0, 1, 16) for row in rows_of(sample_people(300, split=split, seed=seed))
    ]
    assert len(set(rows)) == len(rows) == 2700


def test_no_scene_occurs_twice() -> None:
    keys = [(p, s) for p in range(40) for s in range(10)]
    rows = [row for split in SPLITS for row in rows_of(sample_scenes(keys, split=split))]
    assert len(set(rows)) == len(rows) == 1200


def test_tables_are_cut_and_put_together() -> None:
    people = sample_people(6)
    assert len(people) == 6
    assert_equal(type(people).concatenate([people[:2], people[2:]]), people)


def test_choice_follows_the_weights() -> None:
    columns = Columns([(0, i) for i in range(4000)], 2)
    shares = np.bincount(columns.choice([0.0, 1.0, 3.0]), minlength=3) / 4000
    assert shares[0] == 0
    np.testing.assert_allclose(shares, [0, 0.25, 0.75], atol=0.03)
    by_row = columns.choice(np.eye(3)[np.arange(4000) % 3])
    np.testing.assert_array_equal(by_row, np.arange(4000) % 3)


@pytest.mark.parametrize("trait", ["hair_color", "eye_color", "hairstyle", "fringe"])
def test_every_kind_of_person_occurs(trait: str) -> None:
    from consistentid.drawn.portraits import people as module

    kinds = {
        "hair_color": module.HAIR,
        "eye_color": module.EYES,
        "hairstyle": module.HAIRSTYLES,
        "fringe": module.FRINGES,
    }
    found = np.bincount(getattr(sample_people(1500), trait), minlength=len(kinds[trait]))
    assert len(found) == len(kinds[trait])
    assert found.min() > 0


def test_women_have_no_beards() -> None:
    people = sample_people(500)
    assert not people.beard[people.woman].any()
    assert 0.4 < (people.beard[~people.woman] > 0).mean() < 0.7
    assert 0.4 < people.woman.mean() < 0.6
