"""What the invisible watermark survives, what it costs, and how often it is seen where it is not.

python benchmarks/watermark.py                         # drawings and scikit-image's pictures
python benchmarks/watermark.py --unmarked 1000         # more pictures without it
python benchmarks/watermark.py --sheets DIR            # pictures before, after, and their difference 16 times
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageChops
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.provenance.watermark import FALSE_POSITIVES, detect, embed

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera")


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The picture after compression."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """Nine tenths of each side are left, from a place that is no multiple of anything."""
    width, height = (round(side * 0.9) for side in image.size)
    left, top = (image.width - width) * 3 // 7, (image.height - height) * 2 // 3
    return image.crop((left, top, left + width, top + height))


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """The picture at another size."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as made": lambda image: image,
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 50": lambda image: jpeg(image, 50),
    "a tenth cut off": cropped,
    "cut, JPEG 75": lambda image: jpeg(cropped(image), 75),
    "halved": lambda image: scaled(image, 0.5),
    "halved, JPEG 75": lambda image: jpeg(scaled(image, 0.5), 75),
    "halved, cut, JPEG 75": lambda image: jpeg(cropped(scaled(image, 0.5)), 75),
    "enlarged 1.5": lambda image: scaled(image, 1.5),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
}


def drawings(count: int, size: int, split: str = "validation") -> Iterator[Image.Image]:
    """Drawn portraits, as sharp as they are drawn."""
    people, scenes = sample_people(count, split=split), sample_scenes([(i, 0) for i in range(count)], split=split)
    for pixels in draw(people, scenes, size).pixels():
        yield Image.fromarray(pixels)


def photographs(size: int) -> Iterator[Image.Image]:
    """Scikit-image's photographs, square."""
    for name in PHOTOGRAPHS:
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        side = min(image.size)
        yield image.crop((0, 0, side, side)).resize((size, size), Image.Resampling.LANCZOS)


def survival(count: int) -> None:
    """Prints what the mark costs and after what it is found, as a table."""
    sets = {f"{size} px {kind}": make for size in (512, 128, 64) for kind, make in (
        ("drawings", list(drawings(count, size))), ("photographs", list(photographs(size))),
    )}  # fmt: skip
    print("| | " + " | ".join(f"{name} ({len(images)})" for name, images in sets.items()) + " |")
    print("|---" * (len(sets) + 1) + "|")
    marked = {name: [embed(image) for image in images] for name, images in sets.items()}
    for measure, value in (
        ("PSNR, dB", peak_signal_noise_ratio),
        ("SSIM", lambda a, b: structural_similarity(a, b, channel_axis=2)),
    ):
        cells = []
        for name, images in sets.items():
            values = [value(np.asarray(a), np.asarray(b)) for a, b in zip(images, marked[name], strict=True)]
            cells.append(f"{np.mean(values):.3g} (least {min(values):.3g})")
        print(f"| {measure} | " + " | ".join(cells) + " |", flush=True)
    for change, apply in CHANGES.items():
        found = [sum(detect(apply(image)).found for image in images) for images in marked.values()]
        cells = [f"{number} of {len(images)}" for number, images in zip(found, sets.values(), strict=True)]
        print(f"| {change} | " + " | ".join(cells) + " |", flush=True)


def unmarked(count: int) -> None:
    """False positives: drawings, crops of photographs at random sizes, noise and gradients, recompressed or not."""
    random = np.random.default_rng(0)
    pool = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    least, seen = 1.0, 0
    for number, drawing in enumerate(drawings(count, 128, "test")):
        kind = number % 3
        if kind == 0:
            image = drawing
        elif kind == 1:
            source = pool[int(random.integers(len(pool)))]
            side = int(random.integers(96, 257))
            left, top = (int(random.integers(length - side)) for length in source.size)
            image = source.crop((left, top, left + side, top + side))
        else:
            image = Image.fromarray(random.integers(0, 256, (128, 128, 3), np.uint8))
        if random.integers(2):
            image = jpeg(image, 75)
        result = detect(image)
        least, seen = min(least, result.chance), seen + result.found
    print(f"\n{count} pictures without it: {seen} found; smallest bound {least:.2g}, allowed {FALSE_POSITIVES:g}")


def sheets(folder: Path) -> None:
    """Pictures to look at."""
    folder.mkdir(parents=True, exist_ok=True)
    for size in (128, 512):
        rows = []
        for before in (next(drawings(1, size)), next(photographs(size))):
            after = embed(before)
            loud = ImageChops.difference(before, after).point(lambda value: min(16 * value, 255))
            rows.append(np.hstack([np.asarray(x) for x in (before, after, loud)]))
        Image.fromarray(np.vstack(rows)).save(folder / f"watermark-{size}.png")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=5, help="drawings of each size; 0 leaves this part out")
    parser.add_argument("--unmarked", type=int, default=100, help="pictures without the mark; 0 leaves this part out")
    parser.add_argument("--sheets", type=Path, help="only write pictures to look at")
    options = parser.parse_args()
    if options.sheets:
        sheets(options.sheets)
        return
    if options.drawings:
        survival(options.drawings)
    if options.unmarked:
        unmarked(options.unmarked)


if __name__ == "__main__":
    main()
