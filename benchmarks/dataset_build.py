"""Pictures a second of `dataset build` against a loop over one picture at a time; prints JSON.

python benchmarks/dataset_build.py --people 100 --scenes 4

The loop is written as the scripts of the reference implementation are: three passes, each over all pictures, one at a
time, every network loaded once. The first finds and cuts the person, the second finds the face in the cut picture and
embeds it, the third parses. Both sides run the same networks in single precision on all cores, write the same kinds of
files, start with loaded networks, and take turns on the same pictures. Captions are not asked for.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from consistentid.data.build.job import Job
from consistentid.data.build.run import build_dataset
from consistentid.data.records import EMBEDDINGS, IMAGES, MASKS, Record, write_records
from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.errors import PhotographError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.portrait import square_round
from consistentid.files.images import load_image
from consistentid.pipeline.pipeline import ConsistentIDPipeline


def loop(analyzer: FaceAnalyzer, photos: Path, out: Path, size: int) -> None:
    """Annotate pictures one at a time, a pass for each step."""
    for kind in (IMAGES, MASKS, EMBEDDINGS):
        (out / kind).mkdir(parents=True)
    for file in sorted(photos.rglob("*.jpg")):
        image = load_image(file)
        try:
            if analyzer.guard is not None:
                analyzer.guard(image)
        except PhotographError:
            continue
        faces = analyzer.detector.detect(image)
        if faces:
            cut = image.crop(
                square_round(max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2]))), image.size)
            )
            cut.resize((size, size), Image.Resampling.LANCZOS).save(
                out / IMAGES / f"{file.parent.name}_{file.stem}.png"
            )
    for file in sorted((out / IMAGES).iterdir()):
        image = load_image(file)
        faces = analyzer.detector.detect(image)
        if faces:
            embedding = analyzer.recogniser.embed(image, faces[0].landmarks)
            torch.save(torch.from_numpy(embedding)[None], out / EMBEDDINGS / f"{file.stem}.bin")
    for file in sorted((out / IMAGES).iterdir()):
        Image.fromarray(analyzer.parser.parse(load_image(file))).save(out / MASKS / file.name)
    names = sorted(file.stem for file in (out / IMAGES).iterdir())
    write_records(out, [Record(f"{name}.png", f"{name}.png", embedding=f"{name}.bin") for name in names])


@click.command()
@click.option("--people", default=100)
@click.option("--scenes", default=4)
@click.option("--size", default=128)
@click.option("--repeats", default=3)
@click.option("--workers", default=os.cpu_count())
def main(people: int, scenes: int, size: int, repeats: int, workers: int) -> None:
    """Draw people, then measure both sides in turns."""
    with tempfile.TemporaryDirectory() as home:
        draw_dataset(Drawing(people, scenes, size, "test"), Path(home), photos=True)
        photos = Path(home) / "photos"
        analyzer = ConsistentIDPipeline.from_preset("drawn", device="cpu").analyzer
        loops, builds = [], []
        for repeat in range(repeats):
            start = time.perf_counter()
            loop(analyzer, photos, Path(home) / f"loop-{repeat}", size)
            loops.append(people * scenes / (time.perf_counter() - start))
            builds.append(steady(Job(photos, Path(home) / f"build-{repeat}", size=size), workers))
    figures = {name: round(statistics.median(rates), 1) for name, rates in (("loop", loops), ("build", builds))}
    ratios = [b / a for a, b in zip(loops, builds, strict=True)]
    about = {"pictures": people * scenes, "size": size, "workers": workers, "cores": os.cpu_count(), "repeats": repeats}
    print(json.dumps({"pictures_per_second": figures, "ratio": round(statistics.median(ratios), 2), **about}))


def steady(job: Job, workers: int) -> float:
    """Pictures a second of a build from its first finished shard on, the summary at the end included.

    So the start of the processes, which takes as long for ten pictures as for a million, does not count.
    """
    marks: list[tuple[float, int]] = []
    build_dataset(job, workers=workers, progress=lambda done, _: marks.append((time.perf_counter(), done)))
    first = next(mark for mark in marks if mark[1])
    return (marks[-1][1] - first[1]) / (time.perf_counter() - first[0])


if __name__ == "__main__":
    main()
