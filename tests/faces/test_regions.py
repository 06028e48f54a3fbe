import numpy as np
import pytest
from skimage.measure import label

from consistentid.faces.regions import components, fill_holes


@pytest.mark.parametrize("density", [0.1, 0.5, 0.6, 0.9])
def test_components_agree_with_an_independent_implementation(density: float) -> None:
    random = np.random.RandomState(0)
    for _ in range(50):
        mask = random.rand(*random.randint(1, 40, size=2)) < density
        np.testing.assert_array_equal(components(mask), label(mask, connectivity=1))


def test_components_of_nothing_and_everything() -> None:
    assert components(np.zeros((3, 5), bool)).tolist() == np.zeros((3, 5)).tolist()
    assert components(np.ones((3, 5), bool)).tolist() == np.ones((3, 5)).tolist()


def test_holes_are_filled_and_bays_are_not() -> None:
    mask = np.array([[int(c) for c in row] for row in ("0111000", "1001010", "0110101", "0000010")], bool)
    filled = [[int(c) for c in row] for row in ("0111000", "1111010", "0110111", "0000010")]
    assert fill_holes(mask).astype(int).tolist() == filled
