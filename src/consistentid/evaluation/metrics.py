"""Measures of likeness, adherence to the prompt and quality, as pure functions of embeddings.

Which encoders make the embeddings is the caller's choice, see `consistentid.evaluation.encoders`. A row of NaN is what
could not be seen: a picture without a face, a part that is hidden. docs/evaluation.md says why each is defined so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Labels = NDArray[Any]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        value: mean over all pictures; NaN where nothing could be measured.
        low, high: 95 % interval over people, since pictures of one person are not independent.
        pictures, people: how many it is made of.
    """

    value: float
    low: float
    high: float
    pictures: int
    people: int


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
"""The estimate of a measure that does not apply."""


def estimate(scores: Floats | Bools, people: Labels, samples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of (K,) scores with a 95 % percentile bootstrap interval over people.

    Args:
        scores: one a picture; NaN is left out, so failures that shall count must be filled in before.
        people: (K,) whose picture each is.
        samples: resamplings of the people.
        seed: of the resampling.
    """
    values = np.asarray(scores, np.float64)
    known = ~np.isnan(values)
    if not known.any():
        return NOTHING
    _, whose = np.unique(np.asarray(people)[known], return_inverse=True)
    sums, counts = np.bincount(whose, values[known]), np.bincount(whose)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(samples, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    return Estimate(float(values[known].mean()), float(low), float(high), int(known.sum()), len(sums))


def cosine(a: Floats, b: Floats) -> Floats:
    """Cosine along the last axis, -1 to 1; NaN where either holds NaN. The other axes broadcast."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    result: Floats = (a * b).sum(-1) / np.maximum(norms, np.finfo(np.float32).tiny)
    return result


def similarity(references: Floats, pictures: Floats) -> Floats:
    """Cosine of each picture to its reference; 0 for a picture in which nothing was found.

    Failures stay in the denominator: a model that draws no face must not gain by it. Where the reference holds nothing,
    such as a part that it hides, there is nothing to measure, and the result is NaN.

    Args:
        references, pictures: (..., D); NaN rows where nothing was found.
    """
    found = cosine(references, pictures)
    failed = np.isnan(pictures).any(-1) & ~np.isnan(references).any(-1)
    return np.where(failed, 0.0, found)


def copy_paste(reference_picture: Floats, truth_picture: Floats, reference_truth: Floats) -> Floats:
    """How much nearer a picture is to the reference photo than to another photo of the person (MultiID-Bench).

    ``(angle to truth - angle to reference) / angle between the two``: 1 = the reference itself, 0 = as near to both,
    -1 = the other photo itself. NaN where a face was not found.

    Args:
        reference_picture, truth_picture, reference_truth: cosines, of one shape.
    """
    to_reference, to_truth, between = (
        np.arccos(np.clip(x, -1, 1)) for x in (reference_picture, truth_picture, reference_truth)
    )
    result: Floats = (to_truth - to_reference) / np.maximum(between, 1e-6)
    return result


def separation(genuine: Floats, impostors: Floats) -> float:
    """Probability that a pair of one person is more similar than a pair of two: 0.5 = the ruler tells nothing, 1 = all.

    The area under the ROC curve; NaN is left out.
    """
    right, wrong = (np.sort(x[~np.isnan(x)]) for x in (genuine, impostors))
    if not len(right) or not len(wrong):
        return float("nan")
    below, up_to = (np.searchsorted(wrong, right, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(wrong))


def diversity(features: Floats, groups: Sequence[Any]) -> dict[Any, float]:
    """How different pictures are that differ in their seed only: mean of 1 - cosine over all pairs of a group.

    Args:
        features: (K, D).
        groups: (K,) hashable, equal for pictures of one person, prompt and method; those of one picture are left out.
    """
    rows: dict[Any, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    result = {}
    for group, members in rows.items():
        if len(members) > 1:
            first, second = np.triu_indices(len(members), 1)
            result[group] = float(np.mean(1 - cosine(features[members][first], features[members][second])))
    return result


def zero_shot(pictures: Floats, texts: Floats) -> NDArray[np.int64]:
    """(K,) which of V texts (V, D) each picture (K, D) is most like."""
    return np.asarray(cosine(pictures[:, None], texts[None]).argmax(1))


def frechet_distance(a: Floats, b: Floats) -> float:
    """Fréchet distance of two sets of features (K, D) and (M, D), taken as Gaussians (FID); 0 = the same.

    Biased upwards for small sets: compare only sets of equal sizes.
    """
    roots: list[Floats] = []
    for x in (a, b):
        centred = np.asarray(x, np.float64) - x.mean(0, dtype=np.float64)
        centred /= max(len(x) - 1, 1) ** 0.5
        # R with RᵀR = covariance, no larger than D x D
        triangle: Any = np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred
        roots.append(triangle)
    # tr((C1 C2)^(1/2)) is the sum of singular values of R1 R2ᵀ, which needs no matrix root and stays exact
    product: Any = roots[0] @ roots[1].T
    shared = float(np.linalg.svd(product, compute_uv=False).sum())
    means = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    return float(max(means @ means + sum((r**2).sum() for r in roots) - 2 * shared, 0.0))


def kernel_distance(a: Floats, b: Floats) -> float:
    """Unbiased squared maximum mean discrepancy of two sets of features under the kernel (x·y / D + 1)³ (KID).

    About 0 for sets of one distribution, also for small ones; may be slightly negative.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(p: Floats, q: Floats) -> Floats:
        dot: Floats = p @ q.T / p.shape[1] + 1
        return dot * dot * dot  # a power is ten times as slow

    def within(p: Floats) -> float:
        values = kernel(p, p)
        return float((values.sum() - np.trace(values)) / (len(p) * (len(p) - 1)))

    if min(len(x), len(y)) < 2:
        return float("nan")
    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def distance_estimate(
    distance: Callable[[Floats, Floats], float], features: Floats, people: Labels, real: Floats, groups: int = 20
) -> Estimate:
    """A distance of sets with a 95 % interval by the grouped jackknife over people.

    The bootstrap would draw pictures twice, which makes a set narrower than it is and a Fréchet distance larger.

    Args:
        distance: `frechet_distance` or `kernel_distance`.
        features: (K, D) of the pictures.
        people: (K,) whose picture each is.
        real: (M, D) of real pictures.
        groups: of people, left out in turn.
    """
    known = ~np.isnan(features).any(-1)
    features, names = features[known], np.asarray(people)[known]
    unique, whose = np.unique(names, return_inverse=True)
    if len(features) < 2 or len(real) < 2:
        return NOTHING
    value = distance(features, real)
    number = min(groups, len(unique))
    if number < 2:
        return Estimate(value, float("nan"), float("nan"), len(features), len(unique))
    left_out = np.array([distance(features[whose % number != group], real) for group in range(number)])
    error = 1.96 * float(np.sqrt((number - 1) * left_out.var()))
    return Estimate(value, value - error, value + error, len(features), len(unique))


def position(value: float, lower: float, upper: float) -> float:
    """Where a score stands between a random pair (0) and a real pair (1); NaN where the two do not differ."""
    return (value - lower) / (upper - lower) if upper != lower else float("nan")
