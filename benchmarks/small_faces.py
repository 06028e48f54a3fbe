"""Repair of small faces: likeness before and after, and whether all else stays to the last bit; of held-out people.

    python benchmarks/small_faces.py --preset drawn --people 8 --sides 24,32,40

Each picture shows one person: the preset's own show them at full length; the others are drawings of another scene than
the one that the preset is given, made so small that the face has so many pixels. Every face is repaired, also one that
the base draws well at that size. Prints JSON: for each kind of picture the side of the faces in pixels, the likeness
before and after, by the recogniser that decides whether a face is kept and by the judge that never conditions, the
share of faces that were kept, and the share of pictures in which not one bit outside the face's mask has changed.
"""

from __future__ import annotations

import json
import math
from typing import Any

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.errors import FaceError
from consistentid.faces.analyzer import Recogniser, embed_largest
from consistentid.pipeline.repair import face_mask

DRAWN = 256
"""Pixels of a drawing before it is made small."""

PROMPT = "a full-length picture of a person on a beach"
"""Of the preset's own pictures."""

WIDE = 3
"""Side of the picture, in faces."""


def small_picture(portrait: Image.Image, face_side: float, wanted: int) -> Image.Image:
    """The drawing with a face of so many pixels, with its edges drawn out to `WIDE` faces."""
    side = round(DRAWN * wanted / face_side)
    small = portrait.resize((side, side), Image.Resampling.LANCZOS)
    frame = max((WIDE * wanted - side) // 2, 0)
    return Image.fromarray(np.pad(np.asarray(small), ((frame, frame), (frame, frame), (0, 0)), mode="edge"))


def measured(
    studio: ConsistentIDPipeline, person: int, wanted: int | None, steps: int | None, tries: int
) -> dict[str, Any] | None:
    """One picture, with a face of so many pixels or of the preset's own; None where no face is found in it."""
    drawn = draw(
        sample_people([person] * 2, split="test"),
        sample_scenes([(person, scene) for scene in range(2)], split="test"),
        DRAWN,
    )
    reference, other = (Image.fromarray(pixels) for pixels in drawn.pixels())
    detector, judge = studio.analyzer.detector, studio.judge
    found = detector.detect(other)
    target = embed_largest(reference, detector, judge)
    if not found or target is None:
        return None
    try:
        who = studio.identify(reference)
        if wanted is None:
            picture = studio(who, PROMPT, seed=person, num_inference_steps=steps).images[0]
        else:
            picture = small_picture(other, max(face.side for face in found), wanted)
        made = studio.repair(picture, who, PROMPT, below=1.0, tries=tries, seed=person, num_inference_steps=steps)
    except FaceError:
        return None
    (repaired,) = made.repairs[0]
    seen = detector.detect(picture)
    (face,) = [x for x in seen if [round(float(v)) for v in x.box] == repaired["box"]]
    outside = np.asarray(face_mask(face, picture.size, [x for x in seen if x is not face])) == 0
    same = np.array_equal(np.asarray(made.images[0])[outside], np.asarray(picture)[outside])

    def likeness(image: Image.Image, recogniser: Recogniser) -> float:
        seen = embed_largest(image, detector, recogniser)
        return math.nan if seen is None else float(seen @ target)

    return {
        "side": face.side,
        "before": repaired["likeness_before"],
        "after": repaired["likeness_after"],
        "kept": repaired["kept"],
        "judge before": likeness(picture, judge),
        "judge after": likeness(made.images[0], judge),
        "outside unchanged": same,
        "pixels outside": float(outside.mean()),
    }


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=8, show_default=True)
@click.option("--sides", default="24,32,40", show_default=True, help="Pixels of a face.")
@click.option("--steps", type=int, help="Sampling steps.  [default: the preset's]")
@click.option("--tries", default=3, show_default=True, help="How often each face is drawn.")
def main(preset: str, people: int, sides: str, steps: int | None, tries: int) -> None:
    """Print the likeness."""
    studio = ConsistentIDPipeline.from_preset(preset)
    report: dict[str, Any] = {}
    kinds: dict[str, int | None] = {"the preset's own": None, **{f"{side} px": int(side) for side in sides.split(",")}}
    for kind, wanted in kinds.items():
        rows = [measured(studio, person, wanted, steps, tries) for person in tqdm(range(people), desc=kind)]
        found = [row for row in rows if row]
        means = {name: round(float(np.nanmean([row[name] for row in found])), 3) for name in (found or [{}])[0]}
        report[kind] = {"pictures": len(found), "without a face": len(rows) - len(found), **means}
    click.echo(json.dumps({"base": studio.sampler.native_size, **report}, indent=1))


if __name__ == "__main__":
    main()
