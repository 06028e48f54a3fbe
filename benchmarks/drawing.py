"""How many portraits one processor core draws a second, at 64 and 128 pixels; prints JSON.

python benchmarks/drawing.py
"""

from __future__ import annotations

import json
import platform
import statistics
import time

import torch

from consistentid.drawn.portraits import draw, sample_people, sample_scenes

PICTURES, REPEATS = 128, 5


def pictures_per_second(size: int) -> float:
    """Median over repeats. Counts the processor's time, so that other programs on the machine do not matter."""
    people = sample_people(PICTURES, split="test")
    scenes = sample_scenes([(i, 0) for i in range(PICTURES)], split="test")
    draw(people[:32], scenes[:32], size)  # warms up
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        draw(people, scenes, size)
        seconds.append(time.process_time() - start)
    return PICTURES / statistics.median(seconds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    figures = {f"{size}px": round(pictures_per_second(size), 1) for size in (64, 128)}
    about = {"machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"pictures_per_second_per_core": figures, **about}))
