"""What repair does for small faces: likeness before and after by the judge, on pictures with faces of 24-40 pixels.

    python benchmarks/repair.py                    # 20 held-out drawn people
    python benchmarks/repair.py --people 5 --seed 1

Each picture is a portrait of a held-out person that the preset draws, made so small that its face has few pixels, on a
larger plain ground, as in a full-length picture. Prints JSON: the judge's likeness to the person before and after, the
share of faces that were kept, and whether any pixel outside of the mask has changed.
"""

from __future__ import annotations

import json
import tempfile
from operator import attrgetter
from pathlib import Path

import click
import numpy as np
from PIL import Image

from consistentid import ConsistentIDPipeline
from consistentid.evaluation.people import draw_people
from consistentid.faces.analyzer import embed_largest
from consistentid.pipeline.repair import face_mask, is_small

PROMPT = "a portrait of a person"


@click.command()
@click.option("--people", default=20, show_default=True, help="Held-out people.")
@click.option("--seed", default=0, show_default=True, help="Of the first picture.")
@click.option("--side", default=32, show_default=True, help="Pixels of a face, about.")
def main(people: int, seed: int, side: int) -> None:
    """Draw, shrink, repair, compare."""
    studio = ConsistentIDPipeline.from_preset("drawn")
    detector, judge = studio.analyzer.detector, studio.judge
    rows, untouched, sides = [], True, []
    with tempfile.TemporaryDirectory() as folder:
        for number, person in enumerate(draw_people(Path(folder), people, [])):
            who = studio.identify(person.reference)
            target = embed_largest(Image.open(person.reference).convert("RGB"), detector, judge)
            portrait = studio(who, PROMPT, seed=seed + number).images[0]
            found = sorted(detector.detect(portrait), key=attrgetter("area"), reverse=True)
            if not found or target is None:
                continue
            share = side / found[0].side
            small = portrait.resize((round(portrait.width * share),) * 2, Image.Resampling.LANCZOS)
            picture = Image.new("RGB", portrait.size, portrait.getpixel((0, 0)))
            picture.paste(small, ((picture.width - small.width) // 2, (picture.height - small.height) // 2))
            faces = sorted(detector.detect(picture), key=attrgetter("area"), reverse=True)
            if not faces or not is_small(faces[0], studio.sampler.native_size):
                continue
            made = studio.repair(picture, who, PROMPT, seed=seed + number)
            outside = np.asarray(face_mask(faces[0], picture.size)) == 0
            untouched &= np.array_equal(np.asarray(picture)[outside], np.asarray(made.images[0])[outside])
            seen = [embed_largest(image, detector, judge) for image in (picture, made.images[0])]
            likeness = [float("nan") if one is None else float(one @ target) for one in seen]
            rows.append((*likeness, made.repairs[0][0]["kept"]))
            sides.append(faces[0].side)
    table = np.array(rows, float)
    click.echo(
        json.dumps(
            {
                "pictures": len(rows),
                "of people": people,
                "face, pixels": [round(min(sides), 1), round(max(sides), 1)] if sides else [],
                "likeness before, after": [round(float(x), 3) for x in np.nanmean(table[:, :2], axis=0)]
                if rows
                else [],
                "kept": round(float(table[:, 2].mean()), 2) if rows else None,
                "outside of the mask every pixel is the same": untouched,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
