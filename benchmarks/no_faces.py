"""How surely the drawn preset's detector tells drawn faces from what is none; prints JSON.

    python benchmarks/no_faces.py --people 150

Faces are held-out people's, one scene each, at several sizes, as PNG and as JPEG. Of what is no face there are blank
pictures, noise from coarse to fine, discs, gradients, and the label maps of drawings, in grey and in random colours.
Figures are shares in which a face is found, alone and after the guard against photographs, and the values that the
limits in `presets/drawn.yaml` have to lie between.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import click
import numpy as np
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.errors import FaceError
from consistentid.faces.from_labels import LabelDetector, flatness, sureness
from consistentid.presets.loading import load_analyzer
from consistentid.presets.read import load_preset

SIDE = 128


def people(count: int, size: int, scene: int = 3) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """A picture of each person and its labels."""
    for start in range(0, count, 50):
        keys = [(person, scene) for person in range(start, min(start + 50, count))]
        shown = draw(sample_people([x for x, _ in keys], split="test"), sample_scenes(keys, split="test"), size)
        for pixels, labels in zip(shown.pixels(), shown.labels.numpy(), strict=True):
            yield Image.fromarray(pixels), labels


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """A picture after it was saved as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def without_faces(random: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """Kinds of pictures in which there is nobody, and one of each kind after the other."""
    for _ in range(40):
        yield "blank", Image.new("RGB", (SIDE, SIDE), tuple(random.integers(0, 256, 3).tolist()))
    for colour in (0, 8, 20, 60, 128, 255):
        yield "blank", Image.new("RGB", (SIDE, SIDE), (colour,) * 3)
    for grain in (4, 6, 8, 12, 16, 24, 32, 64, 128):
        for _ in range(6):
            coloured = Image.fromarray(random.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
            for kind, noise in (("noise", coloured), ("grey noise", coloured.convert("L").convert("RGB"))):
                yield kind, noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(50):
        (one, other), (across, down), (wide, high) = (
            random.integers(0, 256, (2, 3)), random.uniform(40, 88, 2), random.uniform(20, 60, 2),
        )  # fmt: skip
        inside = ((x - across) / wide) ** 2 + ((y - down) / high) ** 2 < 1
        yield "disc", Image.fromarray(np.where(inside[..., None], one, other).astype(np.uint8))
        way = np.cos(across) * x + np.sin(across) * y
        share = ((way - way.min()) / np.ptp(way))[..., None]
        yield "gradient", Image.fromarray((one * share + other * (1 - share)).astype(np.uint8))
    for size in (SIDE, 512):
        for _, labels in people(40, size):
            yield "label map", Image.fromarray(labels.astype(np.uint8) * 13).convert("RGB")
            yield "label map", Image.fromarray(labels.astype(np.uint8)).convert("RGB")
            yield "label map in colours", Image.fromarray(random.integers(0, 256, (19, 3), dtype=np.uint8)[labels])


@click.command()
@click.option("--people", "count", default=150, show_default=True)
def main(count: int) -> None:
    """Print shares and values."""
    analyzer = load_analyzer(load_preset("drawn"))
    anything = LabelDetector(analyzer.parser)  # type: ignore[arg-type]  # of this preset it is sure of itself
    sets: dict[str, list[Image.Image]] = {}
    for size in (64, 128, 512):
        drawn = [image for image, _ in people(count if size < 512 else count // 3, size)]
        sets[f"drawings, {size} px"] = drawn
        sets[f"drawings, {size} px, JPEG 75"] = [as_jpeg(image, 75) for image in drawn]
    for kind, image in without_faces(np.random.default_rng(0)):
        sets.setdefault(kind, []).append(image)

    def passes(image: Image.Image) -> bool:
        try:
            return bool(analyzer.detect(image))
        except FaceError:
            return False

    out = {}
    for name, images in sets.items():
        values = []
        for image in images:
            small = image.resize((min(image.width, 256),) * 2, Image.Resampling.BICUBIC)
            ((labels, probabilities),) = analyzer.parser.parse_surely([small])  # type: ignore[attr-defined]
            for face in sorted(anything.detect(small), key=lambda face: -face.area)[:1]:
                values.append((face.score, sureness(labels, probabilities, face), flatness(small, face)))
        columns = np.array(values).reshape(-1, 3).T
        out[name] = {
            "pictures": len(images),
            "without limits": round(len(values) / len(images), 3),
            "with limits": round(float(np.mean([bool(x) for x in analyzer.detector.detect_batch(images)])), 3),
            "after the guard": round(float(np.mean([passes(image) for image in images])), 3),
            **{
                key: [round(float(x), 2) for x in np.percentile(column, (0, 1, 50, 99, 100))] if len(column) else None
                for key, column in zip(("visible", "sure", "flat"), columns, strict=True)
            },
        }
    click.echo(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
