"""Which encoder tells facial parts of drawn people apart? The choice behind FGIS in docs/evaluation.md.

    python benchmarks/part_encoders.py --people 24

Prints how often, in per cent, the same part of the same person in another scene is more similar to the reference than
that of somebody else: 50 = blind. Both encoders see the same pictures of held-out people.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from consistentid.evaluation.encoders import AlignedParts, CroppedParts, load_encoders
from consistentid.evaluation.metrics import cosine, separation
from consistentid.evaluation.people import draw_people
from consistentid.evaluation.protocol import load_protocol
from consistentid.faces.parts import PARTS
from consistentid.files.images import load_image
from consistentid.pipeline.pipeline import ConsistentIDPipeline


@click.command()
@click.option("--people", default=24, show_default=True)
@click.option("--scenes", default=2, show_default=True)
def main(people: int, scenes: int) -> None:
    """Compare encoders of facial parts on held-out drawn people."""
    studio = ConsistentIDPipeline.from_preset("drawn", device="cpu")
    known = load_encoders(studio)
    encoders = [AlignedParts(studio.judge, "judge"), CroppedParts(known.clip)]
    features = {encoder.name: np.full((people, 1 + scenes, len(PARTS), 512), np.nan) for encoder in encoders}
    with tempfile.TemporaryDirectory() as folder:
        prompts = load_protocol("drawn").first(scenes).prompts
        for row, person in enumerate(draw_people(Path(folder), people, prompts)):
            for column, path in enumerate((person.reference, *person.others)):
                picture = load_image(path)
                detections = known.faces.detect(picture)
                if not detections:
                    continue
                face = known.faces.describe(picture, detections[0], detections)
                for encoder in encoders:
                    for part, vector in encoder.embed(picture, face).items():
                        features[encoder.name][row, column, PARTS.index(part)] = np.pad(vector, (0, 512 - len(vector)))
    same = np.eye(people, dtype=bool)
    print(f"{'':60s}" + "".join(f"{part:>8s}" for part in PARTS))
    for name, table in features.items():
        similar = [cosine(table[:, None, None, 0, k], table[None, :, 1:, k]) for k in range(len(PARTS))]
        print(f"{name:60s}" + "".join(f"{100 * separation(s[same], s[~same]):8.1f}" for s in similar))


if __name__ == "__main__":
    main()
