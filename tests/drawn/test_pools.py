"""Pools of drawn pictures: drawn once, whatever happens meanwhile, and true to their specification."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from consistentid.drawn import pools
from consistentid.drawn.pools import PoolSpec, open_pool
from consistentid.drawn.portraits import draw

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
    [folder] = tmp_path.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["complete", "images.npy", "labels.npy", "landmarks.npy"]


def test_two_workers_draw_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "BLOCK", 1024)  # of the processes that are started, which know no other
    assert_true(open_pool(SPEC, tmp_path, workers=2))


def test_an_interrupted_drawing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def interrupted(people, scenes, size):
        drawn.append(len(people))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(people, scenes, size)

    monkeypatch.setattr(pools, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_pool(SPEC, tmp_path)
    [folder] = tmp_path.iterdir()
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
    monkeypatch.setattr(pools, "draw", None)
    pool = open_pool(SPEC, tmp_path)
    assert_true(pool)
    with pytest.raises(ValueError, match="read-only"):
        pool.images[0] = 0


def test_other_pictures_are_another_pool(tmp_path: Path) -> None:
    open_pool(SPEC, tmp_path)
    open_pool(PoolSpec(people=1, scenes=1, size=32), tmp_path)
    open_pool(PoolSpec(people=1, scenes=1, size=32, seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_tables_of_the_pool_are_those_it_was_drawn_from(tmp_path: Path) -> None:
    rows = np.array([13, 0, 7])
    pool = open_pool(SPEC, tmp_path)
    for ours, theirs in zip(pool.tables(rows), SPEC.tables(rows), strict=True):
        for f in fields(ours):
            np.testing.assert_array_equal(getattr(ours, f.name), getattr(theirs, f.name), f.name)


def test_pictures_of_another_way_of_drawing_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_true(open_pool(SPEC, tmp_path))
    monkeypatch.setattr(pools, "drawing_digest", lambda: "01234567")
    open_pool(SPEC, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    before = pools.drawing_digest()
    assert pools.drawing_digest() == before
    pools.drawing_digest.cache_clear()
    assert pools.drawing_digest() == before  # it follows from the drawing alone
    pools.drawing_digest.cache_clear()
    monkeypatch.setattr(pools, "draw", lambda people, scenes, size: draw(people[::-1], scenes, size))
    assert pools.drawing_digest() != before
    monkeypatch.undo()
    pools.drawing_digest.cache_clear()


def test_a_pool_is_sent_to_a_worker_as_its_folder(tmp_path: Path) -> None:
    pool = open_pool(SPEC, tmp_path)
    sent = pickle.dumps(pool)
    assert len(sent) < 2000
    assert_true(pickle.loads(sent))
