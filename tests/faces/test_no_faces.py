"""The drawn preset's detector can say no: a parser labels anything, and most of it is nobody."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.errors import FaceError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.presets.loading import load_analyzer
from consistentid.presets.read import load_preset

SIDE = 128
Shown = tuple[list[Image.Image], list[np.ndarray]]


@pytest.fixture(scope="module")
def analyzer() -> FaceAnalyzer:
    return load_analyzer(load_preset("drawn"))


@pytest.fixture(scope="module")
def people() -> Shown:
    keys = [(person, 3) for person in range(24)]
    shown = draw(sample_people(range(24), split="test"), sample_scenes(keys, split="test"), SIDE)
    return [Image.fromarray(pixels) for pixels in shown.pixels()], list(shown.labels.numpy().astype(np.uint8))


def blank(_people: Shown, random: np.random.Generator) -> Iterator[Image.Image]:
    for colour in ((0,) * 3, (8,) * 3, (128,) * 3, (255,) * 3, *random.integers(0, 256, (12, 3)).tolist()):
        yield Image.new("RGB", (SIDE, SIDE), tuple(colour))


def noise(_people: Shown, random: np.random.Generator) -> Iterator[Image.Image]:
    for grain in (4, 8, 16, 32, 128):
        for _ in range(3):
            pixels = random.integers(0, 256, (grain, grain, 3), dtype=np.uint8)
            yield Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def discs(_people: Shown, random: np.random.Generator) -> Iterator[Image.Image]:
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = ((x - 64) ** 2 + (y - 64) ** 2 < 45**2)[..., None]
    white, black = np.full(3, 255), np.zeros(3)
    for one, other in ((white, black), (black, white), *random.integers(0, 256, (10, 2, 3))):
        yield Image.fromarray(np.where(inside, one, other).astype(np.uint8))


def label_maps(people: Shown, random: np.random.Generator) -> Iterator[Image.Image]:
    for labels in people[1]:
        yield Image.fromarray(labels).convert("RGB")
        yield Image.fromarray(labels * 13).convert("RGB")
        yield Image.fromarray(random.integers(0, 256, (19, 3), dtype=np.uint8)[labels])


@pytest.mark.parametrize("kind", [blank, noise, discs, pytest.param(label_maps, marks=pytest.mark.slow)])
def test_what_is_nobody_has_no_face(analyzer: FaceAnalyzer, people: Shown, kind: Callable[..., object]) -> None:
    pictures: list[Image.Image] = list(kind(people, np.random.default_rng(0)))  # type: ignore[call-overload]
    found = []
    for picture in pictures:
        try:
            found += analyzer.detect(picture)
        except FaceError:
            continue
    assert not found, f"{len(found)} faces in {len(pictures)} pictures"


@pytest.mark.parametrize("quality", [None, 75])
def test_people_are_still_seen(analyzer: FaceAnalyzer, people: Shown, quality: int | None) -> None:
    """`benchmarks/no_faces.py` says how many of more people."""
    pictures = people[0]
    if quality:
        pictures = [Image.open(io.BytesIO(_jpeg(image, quality))).convert("RGB") for image in pictures]
    assert sum(bool(faces) for faces in analyzer.detector.detect_batch(pictures)) >= len(pictures) - 1


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
