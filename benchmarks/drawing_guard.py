"""How surely `DrawingGuard` tells drawings from photographs, at several sizes, as PNG and as JPEG; prints JSON.

    python benchmarks/drawing_guard.py --people 300

Drawings are those of held-out people, one scene each. Photographs are one portrait, the astronaut of scikit-image:
whole, and squares around the face, from close to wide, each shrunk to every size. Figures are shares that pass, and
the extremes of `certainty` and `texture`, from which the limits follow.
"""

from __future__ import annotations

import io
import json

import click
import numpy as np
import skimage.data
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.guard import SURE, TEXTURE, UNSURE, DrawingGuard, certainty, texture
from consistentid.presets.loading import load_analyzer
from consistentid.presets.read import load_preset

QUALITIES = (None, 95, 90, 85, 75)
FACE = (225, 120)
"""Where the astronaut's face is, pixels."""


def saved(image: Image.Image, quality: int | None) -> Image.Image:
    """A picture after it was saved as JPEG of that quality, or unchanged."""
    if quality is None:
        return image
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def drawings(people: int, size: int) -> list[Image.Image]:
    """One picture of each person."""
    pictures = []
    for start in range(0, people, 50):
        keys = [(person, person % 8) for person in range(start, min(start + 50, people))]
        shown = draw(sample_people([x for x, _ in keys], split="test"), sample_scenes(keys, split="test"), size)
        pictures += [Image.fromarray(pixels) for pixels in shown.pixels()]
    return pictures


def photographs() -> list[Image.Image]:
    """The whole photograph, and squares of 110 to 420 pixels about the face, moved a little."""
    whole = Image.fromarray(skimage.data.astronaut())
    random = np.random.default_rng(0)
    found = [whole]
    for side in np.linspace(110, 420, 24).astype(int):
        left, top = np.maximum(0, FACE + random.uniform(-0.12, 0.12, 2) * side - side / 2).astype(int).tolist()
        found.append(whole.crop((left, top, left + int(side), top + int(side))))
    return found


def figures(pictures: list[Image.Image], guard: DrawingGuard) -> dict[str, float | list[float]]:
    """How many pass as drawings, and their certainties and textures: the least, percentiles 1 and 99, the greatest."""
    values = np.array([(certainty(image, guard.parser), texture(image)) for image in pictures])
    certainties, textures = np.percentile(values, (0, 1, 99, 100), axis=0).T.round(3).tolist()
    passed = float(np.mean([guard.is_drawing(image) for image in pictures]))
    return {"pass": round(passed, 4), "certainty": certainties, "texture": textures}


@click.command()
@click.option("--people", default=300, show_default=True)
def main(people: int) -> None:
    """Print shares and extremes."""
    analyzer = load_analyzer(load_preset("drawn"))
    guard = DrawingGuard(analyzer.parser)  # type: ignore[arg-type]  # of this preset it is sure of itself
    out: dict[str, object] = {"limits": [SURE, UNSURE, TEXTURE]}
    for size in (64, 128):
        drawn = drawings(people, size)
        for quality in QUALITIES:
            name = "PNG" if quality is None else f"JPEG {quality}"
            out[f"drawings, {size} px, {name}"] = figures([saved(x, quality) for x in drawn], guard)
    for size in (64, 128, 256, 512):
        shrunk = [x.resize((size, size), Image.Resampling.LANCZOS) for x in photographs()]
        out[f"photographs, {size} px"] = figures([saved(x, quality) for x in shrunk for quality in QUALITIES], guard)
    click.echo(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
