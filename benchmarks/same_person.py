"""From which cosine on two pictures are of one person: measured on held-out drawings, for a preset's `same_person`.

    python benchmarks/same_person.py --preset drawn --people 80 --scenes 6

Every picture goes the way of a user's photo, but that no guard is asked: detection, alignment, recognition. Prints
JSON: the threshold at which as many strangers are taken for the person as pictures of the person are refused (equal
error), the one that lets 1 % of strangers pass, and what the first means for somebody who gives several photos, one of
them of somebody else or not.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Face
from consistentid.faces.verification import outliers

TRIALS = 400


def analyse(analyzer: FaceAnalyzer, people: int, scenes: int, size: int) -> list[list[Face]]:
    """The largest face of each picture, by person; pictures without a face are left out."""
    found = []
    for person in tqdm(range(people), desc="people"):
        drawn = draw(
            sample_people([person] * scenes, split="validation"),
            sample_scenes([(person, scene) for scene in range(scenes)], split="validation"),
            size,
        )
        images = [Image.fromarray(pixels) for pixels in drawn.pixels()]
        detected = analyzer.detect_batch(images)
        found.append(
            [analyzer.describe(image, faces[0], faces) for image, faces in zip(images, detected, strict=True) if faces]
        )
    return found


def report(people: list[list[Face]]) -> dict[str, Any]:
    """Thresholds and shares."""
    whose = np.repeat(np.arange(len(people)), [len(faces) for faces in people])
    embeddings = np.stack([face.embedding for faces in people for face in faces])
    first, second = np.triu_indices(len(whose), 1)
    cosine, same = (embeddings @ embeddings.T)[first, second], whose[first] == whose[second]
    right, wrong = cosine[same], cosine[~same]
    grid = np.linspace(-1, 1, 2001)
    refused, passed = np.searchsorted(np.sort(right), grid) / len(right), shares_above(wrong, grid)
    equal = float(grid[np.argmin(np.abs(refused - passed))])
    strict = float(np.quantile(wrong, 0.99))
    return {
        "pairs": {"same person": len(right), "others": len(wrong)},
        "equal error": {"threshold": round(equal, 3), "error": round(float(shares_above(wrong, equal)), 4)},
        "1 % of strangers pass": {
            "threshold": round(strict, 3),
            "right pictures accepted": round(float((right >= strict).mean()), 4),
        },
        "several photos at equal error": {str(number): trials(people, number, equal) for number in (2, 3, 4, 5)},
    }


def shares_above(values: NDArray[np.float32], thresholds: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Share of values that reach each threshold."""
    return 1 - np.searchsorted(np.sort(values), thresholds) / len(values)


def odd(faces: list[Face], threshold: float) -> list[int]:
    """The faces that `consistentid identify` would refuse."""
    return outliers(np.stack([x.embedding for x in faces]), threshold, np.array([x.quality for x in faces]))


def trials(people: list[list[Face]], number: int, threshold: float) -> dict[str, float]:
    """How often one of so many photos of a person is refused, and the last, if a stranger's, named or missed."""
    random = np.random.default_rng(number)
    refused = named = missed = 0
    for _ in range(TRIALS):
        one, other = random.choice([i for i, faces in enumerate(people) if len(faces) >= number], 2, replace=False)
        chosen = [people[one][i] for i in random.permutation(len(people[one]))[:number]]
        refused += bool(odd(chosen, threshold))
        found = odd([*chosen[:-1], people[other][0]], threshold)
        named += found == [number - 1]
        missed += not found
    counts = {"right photos refused": refused, "stranger named alone": named, "stranger missed": missed}
    return {what: round(count / TRIALS, 4) for what, count in counts.items()}


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=80, show_default=True)
@click.option("--scenes", default=6, show_default=True, help="Pictures of each person.")
@click.option("--size", default=128, show_default=True, help="Pixels of a picture.")
def main(preset: str, people: int, scenes: int, size: int) -> None:
    """Print the thresholds for a preset's recogniser."""
    analyzer = ConsistentIDPipeline.from_preset(preset).analyzer
    click.echo(json.dumps(report(analyse(analyzer, people, scenes, size)), indent=1))


if __name__ == "__main__":
    main()
