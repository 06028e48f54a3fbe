"""Metrics on hand-made embeddings."""

import numpy as np
import pytest

from consistentid.evaluation.metrics import accepted, impostor_threshold, share_over_identities


def people(count: int, pictures: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(64, 64)))[0][:count]
    views = centres[:, None] + noise * rng.normal(size=(count, pictures, 64)) / 8
    return centres, views / np.linalg.norm(views, axis=-1, keepdims=True)


def test_identical_pictures_are_all_accepted_and_permuted_ones_are_not() -> None:
    references, _ = people(20, 3, 0.0)
    same = np.repeat(references[:, None], 3, axis=1)
    threshold = impostor_threshold(references, people(20, 3, 0.5)[1])
    assert accepted(references, same, threshold).all()
    assert not accepted(references, np.roll(same, 1, axis=0), threshold).any()


def test_the_threshold_accepts_the_wanted_share_of_impostors() -> None:
    references, genuine = people(40, 5, 3.0)
    threshold = impostor_threshold(references, genuine, far=0.05)
    similarity = np.einsum("nd,mkd->nmk", references, genuine)[~np.eye(40, dtype=bool)]
    assert (similarity > threshold).mean() == pytest.approx(0.05, abs=0.002)


def test_a_picture_without_a_face_is_not_accepted() -> None:
    references, genuine = people(5, 2, 0.1)
    genuine[0, 0] = np.nan
    hits = accepted(references, genuine, -0.99)
    assert not hits[0, 0]
    assert hits.sum() == 9


def test_the_interval_is_over_identities() -> None:
    hits = np.zeros((50, 8), bool)
    hits[:25] = True  # half of the people always, half never
    share = share_over_identities(hits)
    assert share.value == 0.5
    # as for 50 independent coins, although there are 400 pictures
    assert share.high - share.low == pytest.approx(2 * 1.96 * 0.5 / 50**0.5, abs=0.03)
    alternating = np.tile([True, False], (50, 4))
    assert share_over_identities(alternating).low == 0.5
