"""Every measure against an independent computation or a case made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import bootstrap, mannwhitneyu

from consistentid.evaluation.metrics import (
    copy_paste,
    cosine,
    distance_estimate,
    diversity,
    estimate,
    frechet_distance,
    kernel_distance,
    position,
    separation,
    similarity,
    zero_shot,
)
from consistentid.faces.verification import accepted, impostor_threshold


def people(count: int, pictures: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A unit vector for each person (N, 64), and K noisy views of each (N, K, 64)."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(64, 64)))[0][:count]
    views = centres[:, None] + noise * rng.normal(size=(count, pictures, 64)) / 8
    return centres, views / np.linalg.norm(views, axis=-1, keepdims=True)


def impostors(references: np.ndarray, views: np.ndarray) -> np.ndarray:
    return np.einsum("nd,mkd->nmk", references, views)[~np.eye(len(references), dtype=bool)]


# ------------------------------------------------------------------------------------------------------- likeness


def test_identical_pictures_are_alike_and_permuted_identities_are_not() -> None:
    references, _ = people(20, 3, 0.0)
    threshold = impostor_threshold(impostors(references, people(20, 3, 0.5)[1]))
    assert similarity(references, references) == pytest.approx(1)
    assert accepted(similarity(references, references), threshold).all()
    permuted = similarity(references, np.roll(references, 1, axis=0))
    assert permuted == pytest.approx(0, abs=1e-6)
    assert not accepted(permuted, threshold).any()


def test_the_length_of_an_embedding_does_not_matter() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 16))
    expected = [x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    assert cosine(3 * a, 0.5 * b) == pytest.approx(expected)


def test_a_picture_without_a_face_counts_as_a_failure() -> None:
    references, views = people(5, 2, 0.1)
    views[0, 0] = np.nan
    likeness = similarity(references[:, None], views)
    assert likeness[0, 0] == 0
    assert accepted(likeness, -0.99).tolist()[1:] == [[1, 1]] * 4
    assert accepted(likeness, 0.01)[0].tolist() == [0, 1]
    assert estimate(likeness.ravel(), np.repeat(np.arange(5), 2)).pictures == 10


def test_against_a_reference_without_a_face_there_is_nothing_to_measure() -> None:
    references, views = people(5, 2, 0.1)
    references[0] = np.nan
    assert np.isnan(similarity(references[:, None], views)[0]).all()
    assert not np.isnan(similarity(references[:, None], views)[1:]).any()


def test_separation_is_the_area_under_the_roc_curve() -> None:
    rng = np.random.default_rng(1)
    right, wrong = rng.normal(0.7, 1, 200).round(1), rng.normal(0, 1, 300).round(1)  # rounded, so that there are ties
    expected = mannwhitneyu(right, wrong).statistic / (200 * 300)
    assert separation(np.append(right, np.nan), wrong) == pytest.approx(expected)


def rotated(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


@pytest.mark.parametrize(
    ("picture", "expected"),
    [(0, 1.0), (40, -1.0), (20, 0.0), (10, 0.5), (60, -1.0)],
    ids=["the reference", "the truth", "between", "nearer the reference", "beyond the truth"],
)
def test_copy_paste_of_known_copies(picture: float, expected: float) -> None:
    reference, truth, made = rotated(0), rotated(40), rotated(picture)
    found = copy_paste(cosine(reference, made), cosine(truth, made), cosine(reference, truth))
    assert found == pytest.approx(expected, abs=1e-6)


# ------------------------------------------------------------------------------------------------------ intervals


def test_the_interval_is_over_people() -> None:
    whose = np.repeat(np.arange(50), 8)
    half = estimate(np.repeat([1.0, 0.0], 200), whose)  # half of the people always, half never
    assert half.value == 0.5
    # as for 50 independent coins, although there are 400 pictures
    assert half.high - half.low == pytest.approx(2 * 1.96 * 0.5 / 50**0.5, abs=0.03)
    alternating = estimate(np.tile([1.0, 0.0], 200), whose)
    assert (alternating.low, alternating.high) == (0.5, 0.5)


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(2).gamma(2, size=(60, 3))
    expected = bootstrap((values.mean(1),), np.mean, n_resamples=3000, method="percentile", rng=3).confidence_interval
    found = estimate(values.ravel(), np.repeat([f"p{i}" for i in range(60)], 3), samples=3000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert (found.pictures, found.people) == (180, 60)


def test_people_of_unequal_numbers_of_pictures_count_by_their_pictures() -> None:
    found = estimate(np.array([1.0, 1, 1, 0, np.nan]), np.array(["a", "a", "a", "b", "b"]))
    assert found.value == 0.75
    assert (found.low, found.high, found.pictures) == (0, 1, 4)


def test_a_score_that_does_not_apply_is_nothing() -> None:
    nothing = estimate(np.full(4, np.nan), np.arange(4))
    assert np.isnan(nothing.value)
    assert nothing.pictures == 0


def test_position_between_the_bounds() -> None:
    assert position(0.5, 0.2, 0.8) == pytest.approx(0.5)
    assert np.isnan(position(0.5, 0.3, 0.3))


# ---------------------------------------------------------------------------------------------- sets of pictures


@pytest.mark.parametrize(("count", "other"), [(200, 200), (200, 12), (9, 12)], ids=["many", "some", "few"])
def test_frechet_distance_is_that_of_the_matrix_root(count: int, other: int) -> None:
    rng = np.random.default_rng(4)
    a = rng.normal(size=(count, 16)) @ rng.normal(size=(16, 16))
    b = rng.normal(0.3, 2, size=(other, 16))
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_known_gaussians() -> None:
    a = np.random.default_rng(5).normal(size=(100_000, 2))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.array([3, 4])) == pytest.approx(25)
    assert frechet_distance(a, 3 * a) == pytest.approx(2 * (3 - 1) ** 2, rel=0.02)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(7, 5)), rng.normal(1, 1, size=(9, 5))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 5 + 1) ** 3)

    def within(x: np.ndarray) -> float:
        return float(np.mean([k(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j]))

    expected = within(a) + within(b) - 2 * np.mean([k(p, q) for p in a for q in b])
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_of_one_distribution_is_about_zero_also_for_small_sets() -> None:
    rng = np.random.default_rng(7)
    same = [kernel_distance(*rng.normal(size=(2, 10, 8))) for _ in range(300)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 300**0.5
    assert kernel_distance(rng.normal(size=(50, 8)), rng.normal(1, 1, size=(50, 8))) > 10 * np.std(same)


def test_the_interval_of_a_distance_holds_the_true_one_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    real, whose = rng.normal(size=(200, 4)), np.repeat(np.arange(50), 2)
    hits = 0
    for _ in range(30):
        made = np.repeat(rng.normal(1, 1, size=(50, 4)), 2, axis=0)  # two equal pictures of each person
        found = distance_estimate(kernel_distance, made, whose, real)
        hits += found.low < 9.64 < found.high  # the distance of the two Gaussians themselves
    assert hits > 24  # of 30, where 28 are expected


def test_diversity_is_over_pairs_of_seeds() -> None:
    features = np.stack([rotated(0), rotated(60), rotated(90), rotated(5), rotated(5)])
    found = diversity(features, ["a", "a", "a", "b", "b"])
    assert found["a"] == pytest.approx(1 - np.mean([np.cos(np.radians(x)) for x in (60, 90, 30)]))
    assert found["b"] == pytest.approx(0)
    assert diversity(features[:1], ["alone"]) == {}


def test_zero_shot_chooses_the_nearest_text() -> None:
    assert zero_shot(np.stack([rotated(10), 5 * rotated(80)]), np.stack([rotated(0), rotated(90)])).tolist() == [0, 1]
