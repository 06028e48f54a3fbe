"""The formulas of the stack's trainings, on cases that can be worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from consistentid.drawn.pools import PoolSpec, open_pool, pixels
from consistentid.errors import InputError
from consistentid.faces.parts import LABELS
from consistentid.training.drawn.autoencoder import detail_weight, reconstruction_loss
from consistentid.training.drawn.clip import contrast, part_contrast
from consistentid.training.drawn.parser import augment, emptied, squared
from consistentid.training.drawn.recipe import Mixture, Recipe
from consistentid.training.drawn.recogniser import margin_loss
from consistentid.training.drawn.unet import face_shares

CPU = torch.device("cpu")


# Recogniser


def by_hand(vectors: np.ndarray, people: list[int], margin: float, scale: float) -> float:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    losses = []
    for i, person in enumerate(people):
        wrong = [scale * (unit[i] @ unit[j]) for j in range(len(people)) if people[j] != person]
        for j in range(len(people)):
            if j != i and people[j] == person:
                right = scale * math.cos(math.acos(unit[i] @ unit[j]) + margin)
                losses.append(math.log(1 + sum(math.exp(w) for w in wrong) / math.exp(right)))
    return float(np.mean(losses))


@pytest.mark.parametrize("people", [[0, 0, 1, 1], [0, 1, 0, 2, 1, 2], [3, 3, 3, 5, 5, 5]])
@pytest.mark.parametrize(("margin", "scale"), [(0.0, 1.0), (0.2, 8.0), (0.5, 24.0)])
def test_margin_loss(people: list[int], margin: float, scale: float) -> None:
    vectors = np.random.default_rng(1).normal(size=(len(people), 6))
    ours = margin_loss(torch.tensor(vectors), torch.tensor(people), margin, scale)
    assert float(ours) == pytest.approx(by_hand(vectors, people, margin, scale), rel=1e-6)


def test_margin_loss_wants_people_together_and_apart() -> None:
    people = torch.tensor([0, 0, 1, 1])
    apart = torch.eye(4)[[0, 0, 1, 1]]
    mixed = torch.eye(4)[[0, 1, 0, 1]]
    assert margin_loss(apart, people, 0.2, 24.0) < 1e-6
    assert margin_loss(mixed, people, 0.2, 24.0) > 20
    assert margin_loss(apart, people, 1.4, 4.0) > margin_loss(apart, people, 0.2, 4.0)
    assert margin_loss(5 * apart, people, 0.2, 4.0) == margin_loss(apart, people, 0.2, 4.0)  # length does not matter


def test_margin_loss_has_a_gradient_where_vectors_agree() -> None:
    vectors = torch.ones(4, 3, requires_grad=True)
    margin_loss(vectors, torch.tensor([0, 0, 1, 1]), 0.2, 24.0).backward()
    assert torch.isfinite(vectors.grad).all()


# CLIP


def test_contrast_is_the_mean_of_both_directions() -> None:
    text = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    image = F.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    logits = 5 * text @ image.T
    expected = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(contrast(text, image, torch.tensor(5.0), ["a", "b", "c"]), expected)


def test_equal_texts_are_all_right_answers() -> None:
    vectors = torch.eye(3)[[0, 0, 1]]
    told_twice = contrast(vectors, vectors, torch.tensor(50.0), ["a nose", "a nose", "an ear"])
    assert float(told_twice) == pytest.approx(2 / 3 * math.log(2), rel=1e-4)
    assert contrast(vectors, vectors.roll(1, 0), torch.tensor(50.0), ["a nose", "a nose", "an ear"]) > 10


def test_parts_are_found_among_the_same_part_of_others() -> None:
    """Worked by hand: two noses and one mouth; the mouth is no wrong answer for a nose, however alike."""
    vectors = torch.eye(3)[[0, 1, 0]]
    owners = torch.tensor([[3, 7], [3, 8], [4, 7]])
    right = part_contrast(vectors, vectors, owners, torch.tensor(5.0))
    noses = math.log(1 + math.exp(-5))
    assert float(right) == pytest.approx((2 * noses + 0) / 3, rel=1e-4)
    swapped = part_contrast(vectors, vectors[[1, 0, 2]], owners, torch.tensor(5.0))
    assert float(swapped) == pytest.approx((2 * (5 + noses) + 0) / 3, rel=1e-4)
    same_person = part_contrast(vectors, vectors, torch.tensor([[3, 7], [3, 7], [4, 7]]), torch.tensor(0.0))
    assert float(same_person) == pytest.approx(2 * math.log(2) / 3, rel=1e-4)


# Autoencoder


def test_pixels() -> None:
    images = np.array([[[[0, 127, 255]]]], np.uint8)
    torch.testing.assert_close(pixels(images, CPU), torch.tensor([-1, -1 / 255, 1]).view(1, 3, 1, 1))


def test_details_of_the_face_weigh_most() -> None:
    labels = torch.arange(19, dtype=torch.uint8).reshape(1, 1, 19)
    expected = [1.0] + [4.5 if i in (2, 3, 4, 5, 6, 10, 11, 12, 13) else 1.5 for i in range(1, 19)]
    assert detail_weight(labels, CPU)[0, 0, 0].tolist() == expected


def test_shares_of_the_face() -> None:
    labels = torch.zeros(1, 4, 8, dtype=torch.uint8)
    labels[0, :2, :2] = LABELS.index("skin")
    labels[0, 0, 2] = LABELS.index("left_eye")
    labels[0, 2:, :] = LABELS.index("hair")
    shares = face_shares(labels, torch.empty(1, 12, 2, 4))
    assert shares.tolist() == [[[[1.0, 0.25, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]


def test_reconstruction_loss() -> None:
    x = torch.zeros(1, 1, 2, 2)
    y = torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]])
    weight = torch.tensor([[[[3.0, 1.0], [1.0, 1.0]]]])
    # Weighted error 3 * (0.5 + 0.25) / 4; edges 0.5 off in one of two columns and in one of two rows.
    assert float(reconstruction_loss(y, x, weight)) == pytest.approx(3 * 0.75 / 4 + (0.25 + 0.25))
    assert float(reconstruction_loss(x, x, weight)) == 0


# Parser


def test_pictures_and_labels_are_framed_alike() -> None:
    """Pictures whose red channel is their label stay so, up to the softness of some edges."""
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    labels[:, 8:24, 8:24] = 1
    labels[1, 4:12, 4:12] = 10
    pictures = labels[:, None].float().expand(4, 3, 32, 32)
    kinds = set()
    for seed in range(60):
        x, y = augment(pictures, labels, torch.Generator().manual_seed(seed))
        assert x.shape == pictures.shape
        assert y.shape == labels.shape
        assert y.dtype == torch.int64
        assert set(y.unique().tolist()) <= {0, 1, 10}
        assert ((x[:, 0] - y).abs() > 0.6).float().mean() < 0.12
        kinds.add(tuple(y.flatten().bincount(minlength=2)[:2].tolist()))
    assert len(kinds) > 4


def test_left_stays_left_in_the_mirror() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    for left, right, row in ((2, 3, 6), (4, 5, 10), (7, 8, 14)):
        labels[:, row : row + 2, 9:12], labels[:, row : row + 2, 20:23] = left, right
    columns, whole, turns = torch.arange(32.0).expand(1, 32, 32), 0, []
    for seed in range(100):
        _, y = augment(torch.zeros(1, 3, 32, 32), labels, torch.Generator().manual_seed(seed))
        turned = [y.rot90(quarters, (-2, -1)) for quarters in range(4)]
        if torch.equal(y.flatten().bincount(minlength=9), labels.flatten().bincount(minlength=9)):  # one whole face
            whole += 1
            upright = [
                all(columns[t == left].mean() < columns[t == right].mean() for left, right in ((2, 3), (4, 5), (7, 8)))
                for t in turned
            ]
            assert sum(upright) == 1
            turns.append(upright.index(True))
    assert whole > 10
    assert turns.count(0) > len(turns) / 2
    assert set(turns) == {0, 1, 2, 3}


def test_pictures_in_which_nobody_is() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 3, 32, 32, generator=generator) * 2 - 1, torch.ones(40, 32, 32, dtype=torch.long)
    empty, labels = emptied(x, y, 30, generator)
    assert torch.equal(empty[30:], x[30:])
    assert torch.equal(labels[30:], y[30:])
    assert not labels[:30].any()
    assert empty.abs().max() <= 1
    spread = empty[:30].flatten(2).std(-1).mean(-1)
    assert (spread == 0).any()  # blank ones
    tiles = [torch.equal(a.flatten().sort().values, b.flatten().sort().values) for a, b in zip(empty, x, strict=True)]
    assert 3 < sum(tiles[:30]) < 20


def test_wide_pictures_become_squares_with_their_labels() -> None:
    y = torch.zeros(2, 32, 48, dtype=torch.long)
    y[:, 8:24, 12:36] = 1
    x = y[:, None].float().expand(-1, 3, -1, -1)
    square, labels = squared(x, y)
    assert square.shape == (2, 3, 32, 32)
    assert labels.shape == (2, 32, 32)
    assert ((square[:, 0] - labels).abs() > 0.6).float().mean() < 0.03
    assert labels.float().mean() == pytest.approx(16 * 24 / 48**2, abs=0.02)
    assert squared(square, labels)[0] is square


# Pictures of several people


def test_a_share_of_the_batches_shows_several_people(tmp_path: Path) -> None:
    single = open_pool(PoolSpec(people=6, scenes=2, size=32), tmp_path)
    pairs = open_pool(PoolSpec(people=4, scenes=1, size=32, width=48, together=2), tmp_path)
    trios = open_pool(PoolSpec(people=4, scenes=1, size=32, width=48, together=3), tmp_path)
    mixture = Mixture(single, (pairs, trios), share=0.4)
    rows = np.array([7, 3, 5])
    seen = [mixture.batch(rows, seed) for seed in range(300)]
    counts = np.bincount([number for number, _, _ in seen], minlength=3) / 300
    assert counts == pytest.approx([0.6, 0.2, 0.2], abs=0.08)
    for number, pool, chosen in seen:
        assert pool is mixture.pools[number]
        assert (np.diff(chosen) >= 0).all()
        assert len(chosen) == 3
        assert 0 <= chosen.min() <= chosen.max() < len(pool)
        if not number:
            assert chosen.tolist() == [3, 5, 7]
    again = mixture.batch(rows, 11)
    assert (again[0], again[2].tolist()) == (seen[11][0], seen[11][2].tolist())


# Recipes


def recipe(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(text)
    return Recipe(tmp_path / "recipe.yaml", tmp_path)


def test_sections(tmp_path: Path) -> None:
    section = recipe(tmp_path, "parser: {network: {a: 1}, schedule: {steps: 3, batch: 2, lr: 0.1}}").section("parser")
    assert section.network == {"a": 1}
    assert section.options == {}
    assert (section.schedule.steps, section.schedule.batch, section.schedule.lr) == (3, 2, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unet: {}", r"has no section 'clip'; it has unet"),
        ("clip: {options: {vocabulary: 700}}", r"clip has no schedule; give it at least steps"),
        (
            "clip: {schedule: {steps: 1, batch: 1, lr: 1, stepz: 2}}",
            r"schedule has unknown options stepz; known are steps, batch, lr",
        ),
        ("clip: {schedule: {steps: 1}}", r"schedule lacks batch, lr"),
        ("- a\n- b", r"a recipe is a mapping of"),
        ("clip: [", r"cannot be read as YAML"),
    ],
)
def test_wrong_recipes_are_told_of(tmp_path: Path, text: str, message: str) -> None:
    def schedule() -> object:
        return recipe(tmp_path, text).section("clip").schedule

    with pytest.raises(InputError, match=message) as caught:
        schedule()
    assert "recipe.yaml" in str(caught.value)


def test_a_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check the path"):
        Recipe(tmp_path / "none.yaml", tmp_path).section("clip")
