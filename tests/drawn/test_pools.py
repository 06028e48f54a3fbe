"""Pools of drawn pictures: drawn once, whatever happens meanwhile, and true to their specification."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from consistentid.drawn import pools
from consistentid.drawn.pools import PoolSpec, open_pool
from consistentid.drawn.portraits import PART_TRAITS, WORLD, draw, draw_groups, sample_people, sample_scenes
from consistentid.errors import InputError

SPEC = PoolSpec(people=5, scenes=4, size=32, split="test", first=3, seed=2)  # 20 pictures in 3 blocks of 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BLOCK", 8)


def truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = draw(*SPEC.tables(np.arange(20)), 32)
    images = (drawn.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return images, drawn.labels.numpy(), drawn.landmarks.numpy()


def assert_true(pool: pools.Pool) -> None:
    images, labels, landmarks = truth()
    assert len(pool) == 20
    np.testing.assert_array_equal(pool.images, images)
    np.testing.assert_array_equal(pool.labels, labels)
    np.testing.assert_allclose(pool.landmarks, landmarks, atol=1e-5)


def test_rows_show_people_in_their_scenes() -> None:
    assert SPEC.keys(np.array([0, 3, 4, 19])) == [(3, 0), (3, 3), (4, 0), (7, 3)]


def test_blocks_are_merged_in_order_and_removed(tmp_path: Path) -> None:
    assert_true(open_pool(SPEC, tmp_path))
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    assert sorted(p.name for p in folder.iterdir()) == [
        "boxes.npy",
        "complete",
        "images.npy",
        "labels.npy",
        "landmarks.npy",
    ]


def test_two_workers_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BLOCK", 1024)  # of the processes that are started, which know no other
    assert_true(open_pool(SPEC, tmp_path, workers=2))


def test_an_interrupted_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def interrupted(groups, size):
        drawn.append(len(groups))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw_groups(groups, size)

    monkeypatch.setattr(pools, "draw_groups", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_pool(SPEC, tmp_path)
    [folder] = (path for path in tmp_path.iterdir() if path.is_dir())
    assert [p.name for p in folder.iterdir()] == ["00000.npz"]
    (folder / "00001.partial.npz").write_bytes(b"torn")
    assert_true(open_pool(SPEC, tmp_path))
    assert drawn == [8, 8, 8, 4]


def test_an_interrupted_merge_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, calls = np.load, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_pool(SPEC, tmp_path)
    monkeypatch.setattr(np, "load", load)
    assert_true(open_pool(SPEC, tmp_path))


def test_a_pool_that_is_there_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pool(SPEC, tmp_path)
    monkeypatch.setattr(pools, "draw_groups", None)
    pool = open_pool(SPEC, tmp_path)
    assert_true(pool)
    with pytest.raises(ValueError, match="read-only"):
        pool.images[0] = 0


def test_other_pictures_are_another_pool(tmp_path: Path) -> None:
    open_pool(SPEC, tmp_path)
    open_pool(PoolSpec(people=1, scenes=1, size=32), tmp_path)
    open_pool(PoolSpec(people=1, scenes=1, size=32, seed=1), tmp_path)
    open_pool(PoolSpec(people=3, scenes=1, size=32, width=48), tmp_path)
    open_pool(PoolSpec(people=3, scenes=1, size=32, width=48, together=2), tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 5


@pytest.mark.slow
def test_pools_of_several_people(tmp_path: Path) -> None:
    spec = PoolSpec(people=5, scenes=4, size=32, width=64, together=3, split="test", first=3, seed=2)
    pool = open_pool(spec, tmp_path)
    rows = np.arange(20)
    drawn = draw_groups(spec.groups(rows), (64, 32))
    np.testing.assert_array_equal(pool.images, drawn.pixels())
    for key in ("labels", "landmarks", "boxes", "owners"):
        np.testing.assert_array_equal(getattr(pool, key), getattr(drawn, key).numpy(), key)
    assert pool.landmarks.shape == (20, 3, 5, 2)
    members = spec.members(rows)
    assert members.shape == (20, 3)
    assert (members == np.repeat(np.arange(3, 8), 4)[:, None]).any(1).all()
    assert set(members.ravel()) == set(range(3, 8))
    told = pools.group_captions(pool, rows[[0, 7]], seed=1)
    assert [len(each.people) for each in told] == [3, 3]
    assert told == pools.group_captions(pool, rows[[0, 7]], seed=1)
    assert told != pools.group_captions(pool, rows[[0, 7]], seed=2)


@pytest.mark.slow
def test_pools_of_people_with_a_part_of_somebody_else(tmp_path: Path) -> None:
    """The very pictures of the same people, but for that part; and its traits are the other's."""
    plain = PoolSpec(people=16, scenes=2, size=64)
    spec = replace(plain, exchanged=True)
    own, pool = open_pool(plain, tmp_path), open_pool(spec, tmp_path)
    rows = np.arange(len(spec))
    exchanges = spec.exchanges(rows)
    assert {part for part, _ in exchanges} == set(PART_TRAITS)
    people, scenes = pool.tables(rows)
    before, same_scenes = own.tables(rows)
    drawn_people, _ = spec.tables(rows)
    for row, (part, other) in enumerate(exchanges):
        assert other != row // 2
        theirs = sample_people([other])
        for field in fields(people):
            source = theirs[[0]] if field.name in PART_TRAITS[part] else before[[row]]
            np.testing.assert_array_equal(getattr(people[[row]], field.name), getattr(source, field.name))
            np.testing.assert_array_equal(getattr(people, field.name)[row], getattr(drawn_people, field.name)[row])
    for field in fields(scenes):
        np.testing.assert_array_equal(getattr(scenes, field.name), getattr(same_scenes, field.name))
    changed = (pool.images != own.images).any(-1).mean((1, 2))
    assert changed.max() > 0.005
    assert np.median(changed) < 0.2
    with pytest.raises(InputError, match="somebody else"):
        replace(spec, people=1)


def test_tables_of_the_pool_are_those_it_was_drawn_from(tmp_path: Path) -> None:
    rows = np.array([13, 0, 7])
    pool = open_pool(SPEC, tmp_path)
    for ours, theirs in zip(pool.tables(rows), SPEC.tables(rows), strict=True):
        for f in fields(ours):
            np.testing.assert_array_equal(getattr(ours, f.name), getattr(theirs, f.name), f.name)


def test_pictures_of_another_world_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_true(open_pool(SPEC, tmp_path))
    monkeypatch.setattr(pools, "WORLD", WORLD + 1)
    open_pool(SPEC, tmp_path)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_the_number_of_the_world_follows_its_drawings() -> None:
    """Mean brightness of the quarters of four pictures; where it changes, raise `WORLD` and note the new ones here."""
    keys = [(0, 0), (1, 1), (2, 2), (3, 3)]
    drawn = draw(sample_people([person for person, _ in keys]), sample_scenes(keys), 64).pixels()
    quarters = drawn.reshape(4, 2, 32, 2, 32, 3).mean((2, 4, 5))
    known = {
        2: [[[178, 170], [138, 139]], [[66, 50], [80, 70]], [[157, 155], [123, 118]], [[114, 100], [99, 98]]],
    }
    np.testing.assert_allclose(quarters, known[WORLD], atol=1.5)


def test_a_pool_is_sent_to_a_worker_as_its_folder(tmp_path: Path) -> None:
    pool = open_pool(SPEC, tmp_path)
    sent = pickle.dumps(pool)
    assert len(sent) < 2000
    assert_true(pickle.loads(sent))
