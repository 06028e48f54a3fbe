"""Draw the reference portraits beside this file: held-out people, facing the viewer in a plain scene.

python examples/draw_references.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes

PEOPLE = {"ada": 10, "ben": 30, "eva": 2, "sam": 24, "mia": 18, "tom": 16}
SIZE = 256


def main() -> None:
    """Write one PNG a person."""
    numbers = list(PEOPLE.values())
    nothing, calm = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.float32)
    scenes = replace(
        sample_scenes([(number, 0) for number in numbers], split="test"),
        **dict.fromkeys(("yaw", "pitch", "roll", "gaze_x", "gaze_y", "center_x"), calm),
        **dict.fromkeys(("expression", "light", "hat", "glasses"), nothing),
        **dict.fromkeys(("eyes_closed", "earrings", "necklace"), nothing.astype(bool)),
        background=nothing + 1,
        style=nothing + 1,
    )
    portraits = draw(sample_people(numbers, split="test"), scenes, SIZE)
    folder = Path(__file__).parent / "portraits"
    folder.mkdir(exist_ok=True)
    for name, picture in zip(PEOPLE, portraits.pixels(), strict=True):
        Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
