"""The invisible mark: what it survives, what it costs, and that it is not seen where it is not."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
import skimage.data
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.provenance.watermark import FALSE_POSITIVES, TILE, Detection, detect, embed


def drawn(size: int) -> list[Image.Image]:
    pictures = draw(sample_people(2, split="test"), sample_scenes([(0, 0), (1, 0)], split="test"), size)
    return [Image.fromarray(pixels) for pixels in pictures.pixels()]


def photographs(size: int) -> list[Image.Image]:
    names = (skimage.data.astronaut, skimage.data.rocket)
    return [
        Image.fromarray(make()).crop((0, 0, 427, 427)).resize((size, size), Image.Resampling.LANCZOS) for make in names
    ]


@pytest.fixture(scope="module")
def large() -> list[Image.Image]:
    return [*drawn(512), *photographs(512)]


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """A tenth of each side is cut off, three sevenths of it at the left and at the top."""
    cut = [round(side * 0.1) for side in image.size]
    left, top = (round(x * 3 / 7) for x in cut)
    return image.crop((left, top, left + image.width - cut[0], top + image.height - cut[1]))


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("change", "scale", "mirrored"),
    [
        (lambda image: image, 1, False),
        (jpeg, 1, False),
        (cropped, 1, False),
        (halved, 0.5, False),
        (lambda image: jpeg(cropped(halved(image))), 0.5, False),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1, True),
    ],
    ids=["as made", "JPEG 75", "a tenth cut off", "halved", "all three", "mirrored"],
)
def test_it_is_found_after(
    large: list[Image.Image], change: Callable[[Image.Image], Image.Image], scale: float, mirrored: bool
) -> None:
    for image in large:
        found = detect(change(embed(image)))
        assert found.found
        assert found.scale == pytest.approx(scale, rel=0.02)
        assert found.mirrored == mirrored


def test_it_is_not_seen(large: list[Image.Image]) -> None:
    for image in [*large, *drawn(128)]:
        before, after = np.asarray(image), np.asarray(embed(image))
        assert peak_signal_noise_ratio(before, after) > 39
        assert structural_similarity(before, after, channel_axis=2) > 0.95
        difference = after.astype(int) - before
        assert abs(difference).max() <= 15
        assert abs(difference.mean()) < 0.1, "nothing gets darker or lighter"


def test_small_drawn_pictures_carry_it_too() -> None:
    for image in drawn(128):
        assert detect(embed(image)).found
        assert detect(jpeg(embed(image), 90)).found


@pytest.mark.slow
def test_pictures_without_it() -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (256, 256, 3), np.uint8))
    waves = 127 + 100 * np.sin(np.add.outer(np.arange(256), 2 * np.arange(256)) * (2 * np.pi / 8))
    made = (noise, Image.new("RGB", (256, 256), "grey"), Image.fromarray(waves.astype(np.uint8)))
    for image in (*made, *drawn(128), *photographs(256)):
        found = detect(image)
        assert not found.found
        assert 0 < found.chance <= 1


@pytest.mark.slow
def test_the_bound_holds_for_keys_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture with the mark of one key, 1,000 other keys agree with it as often as the bound says, or less."""
    from consistentid.provenance import watermark

    white = watermark._whitened(np.asarray(embed(photographs(128)[0]).convert("L")))
    rows, columns, phases = watermark._waves()
    random = np.random.default_rng(1)
    chances = []
    for _ in range(1000):
        other = random.uniform(0, 2 * np.pi, len(phases))
        monkeypatch.setattr(watermark, "_waves", lambda other=other: (rows, columns, other))
        chances.append(min(found.chance for found in watermark._compare(white, 1.0)))
    for chance in (0.5, 0.1, 0.02):
        expected = 1000 * chance
        assert sum(x <= chance for x in chances) <= expected + 4 * math.sqrt(expected)
    assert min(chances) < 1, "the statistic is alive"


def test_only_what_was_drawn_is_marked(large: list[Image.Image]) -> None:
    image = large[2]
    where = np.zeros((512, 512), np.bool_)
    where[128:400, 100:420] = True
    marked = embed(image, where)
    same = (np.asarray(marked) == np.asarray(image)).all(axis=-1)
    assert same[~where].all()
    assert not same[where].all()
    assert detect(marked).found


def test_the_same_pixels_for_ever() -> None:
    """Whatever machine and version of numpy: the mark of pictures that are out there must stay the one looked for."""
    grey = np.asarray(embed(Image.new("RGB", (TILE, TILE), (128, 128, 128))))
    assert grey[0, :12, 0].tolist() == [128, 127, 127, 127, 128, 128, 127, 127, 127, 127, 127, 128]
    assert sha256(grey.tobytes()).hexdigest()[:16] == "74d9754f62471af4"


@pytest.mark.slow
def test_sizes_that_are_no_multiples_and_smaller_than_the_tile() -> None:
    for size in ((33, 500), (500, 33), (130, 127), (32, 32)):
        image = Image.effect_noise(size, 20).convert("RGB")
        assert embed(image).size == size
        assert isinstance(detect(image), Detection)
    assert FALSE_POSITIVES == 1e-6
