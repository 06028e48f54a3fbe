import numpy as np
import pytest
from hand_drawn import PALETTE
from PIL import Image
from skimage.transform import SimilarityTransform

from consistentid.faces.alignment import SIZE, TEMPLATE, align, similarity


def turned(points: np.ndarray, angle: float, scale: float, shift: complex) -> np.ndarray:
    z = (points @ (1, 1j)) * scale * np.exp(1j * angle) + shift
    return np.stack([z.real, z.imag], axis=1).astype(np.float32)


def blobs(size: tuple[int, int], points: np.ndarray, radius: float) -> Image.Image:
    """A black picture with a disc of its own colour at each point."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    for colour, (cx, cy) in zip(PALETTE, points, strict=False):
        canvas[np.hypot(x - cx, y - cy) <= radius] = colour
    return Image.fromarray(canvas)


def test_similarity_agrees_with_an_independent_implementation() -> None:
    random = np.random.RandomState(0)
    source, target = random.rand(2, 5, 2).astype(np.float32)
    a, b = similarity(source, target)
    expected = SimilarityTransform.from_estimate(source, target).params
    np.testing.assert_allclose([a.real, a.imag, b.real, b.imag], expected[[0, 1, 0, 1], [0, 0, 2, 2]], atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.7])
def test_landmarks_land_on_the_template(angle: float, scale: float) -> None:
    side = int(150 * scale)
    centred = turned(TEMPLATE - SIZE / 2, angle, scale, complex(side, side) / 2)
    aligned = np.asarray(align(blobs((side, side), centred, 5 * scale), centred)).astype(int)
    for colour, (x, y) in zip(PALETTE, TEMPLATE, strict=False):
        np.testing.assert_allclose(aligned[int(y), int(x)], colour, atol=2)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    weight = aligned.sum(axis=2) * (np.hypot(x - TEMPLATE[2, 0], y - TEMPLATE[2, 1]) < 7)
    centre = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    np.testing.assert_allclose(centre, TEMPLATE[2], atol=0.35)


def test_aligned_picture_is_itself() -> None:
    random = Image.fromarray(np.random.RandomState(0).randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))
    np.testing.assert_allclose(np.asarray(align(random, TEMPLATE)).astype(int), np.asarray(random).astype(int), atol=1)


def test_large_faces_do_not_alias() -> None:
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::2] = 255
    aligned = np.asarray(align(Image.fromarray(stripes), TEMPLATE * 10))
    assert aligned.min() > 110
    assert aligned.max() < 145


def test_outside_the_picture_is_black() -> None:
    white = Image.new("RGB", (112, 112), "white")
    aligned = np.asarray(align(white, TEMPLATE - (56, 0)))
    assert aligned[:, :50].max() == 0
    assert aligned[:, 60:].min() == 255
    assert np.asarray(align(white, TEMPLATE + 1000)).max() == 0
