"""Draw the two sheets of the documentation: the same people in many scenes, and many people in the same scene.

python examples/draw_people.py --out docs/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes


def sheet(keys: NDArray[np.int64], size: int) -> Image.Image:
    """A grid of portraits; keys (rows, columns, 3) are person, and the person and number that a scene is known by."""
    rows, columns, _ = keys.shape
    person, owner, number = keys.reshape(-1, 3).T.tolist()
    people = sample_people(person, split="test")
    scenes = sample_scenes(list(zip(owner, number, strict=True)), split="test")
    pictures = draw(people, scenes, size).pixels()
    grid = pictures.reshape(rows, columns, size, size, 3).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * size, columns * size, 3))


def main() -> None:
    """Write both sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--size", type=int, default=128, help="pixels of a side of each portrait")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    own = np.array([[(person, person, scene) for scene in range(8)] for person in range(4)])
    shared = np.array([[(person, 0, scene) for person in range(8)] for scene in (7, 3)])
    sheet(own, options.size).save(options.out / "one-person-eight-scenes.png", optimize=True)
    sheet(shared, options.size).save(options.out / "eight-people.png", optimize=True)


if __name__ == "__main__":
    main()
