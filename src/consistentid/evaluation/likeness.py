"""Are the portraits taken for the right person? Measured on drawn people whom no network has seen.

    python -m consistentid.evaluation.likeness --people 100 --out likeness.json

The judge is a recogniser that conditions nothing. Its threshold accepts 1 % of impostors, found on fresh drawings of
other people. The share of pictures accepted at it is given for: fresh drawings of the same person (the upper bound),
the preset's portraits, and the base without the adapter (the lower bound). A picture without a face counts as not
accepted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from consistentid.data.portraits import draw, sample_people, sample_scenes
from consistentid.errors import FaceError
from consistentid.evaluation.metrics import accepted, impostor_threshold, share_over_identities
from consistentid.faces.analyzer import Detector, Recogniser, embed_largest
from consistentid.pipeline import ConsistentIDPipeline

PROMPTS = (
    "a person in a red hat on a beach",
    "a person in a blue suit in a city at night",
    "a person wearing round glasses in a forest",
    "a person smiling, in the snow",
    "a person with a golden crown, on a purple background",
    "a person looking surprised in a green hoodie, at sunset",
    "an ink drawing of a person in the mountains",
    "a person in a yellow sweater under the stars",
)


def drawings(person: int, scenes: Sequence[int], size: int, split: str = "test") -> list[Image.Image]:
    """RGB pictures of one person in several scenes."""
    people = sample_people([person] * len(scenes), split=split)
    drawn = draw(people, sample_scenes([(person, s) for s in scenes], split=split), size)
    return [Image.fromarray(picture) for picture in drawn.pixels()]


def embed_all(images: Sequence[Image.Image], detector: Detector, judge: Recogniser) -> NDArray[np.float32]:
    """(K, 512) unit vectors of the largest faces; NaN where there is none."""
    found = [embed_largest(image, detector, judge) for image in images]
    vectors = [np.full(512, np.nan, np.float32) if vector is None else vector for vector in found]
    return np.stack(vectors)


def measure(studio: ConsistentIDPipeline, people: int, prompts: int, seed: int = 0) -> dict[str, Any]:
    """The three shares, and what they were made of."""
    size, detector, judge = 128, studio.analyzer.detector, studio.judge
    reference, genuine, portraits, plain = [], [], [], []
    refused = 0
    texts = PROMPTS[:prompts]
    for person in tqdm(range(people), desc="likeness"):
        pictures = drawings(person, range(1 + len(texts)), size)
        reference.append(embed_all(pictures[:1], detector, judge)[0])
        genuine.append(embed_all(pictures[1:], detector, judge))
        first = seed + person * len(texts)
        try:
            who = studio.identify(pictures[0])
            made = [studio(who, text, seed=first + i).images[0] for i, text in enumerate(texts)]
            portraits.append(embed_all(made, detector, judge))
        except FaceError:
            refused += 1
            portraits.append(np.full((len(texts), 512), np.nan, np.float32))
        plain.append(embed_all(_plain(studio, texts, first), detector, judge))
    references = np.stack(reference)
    threshold = impostor_threshold(references, np.stack(genuine))
    groups = {"fresh_drawings": genuine, "portraits": portraits, "without_adapter": plain}
    hits = {name: accepted(references, np.stack(group), threshold) for name, group in groups.items()}
    shares = {name: asdict(share_over_identities(hit)) for name, hit in hits.items()}
    per_prompt = {text: float(hits["portraits"][:, i].mean()) for i, text in enumerate(texts)}
    return {
        "people": people,
        "pictures": people * len(texts),
        "threshold": threshold,
        **shares,
        "portraits_of_upper_bound": shares["portraits"]["value"] / max(shares["fresh_drawings"]["value"], 1e-9),
        "pictures_without_face": int(np.isnan(np.stack(portraits)[..., 0]).sum()),
        "references_refused": refused,
        "portraits_by_prompt": per_prompt,
    }


def _plain(studio: ConsistentIDPipeline, prompts: Sequence[str], seed: int) -> list[Image.Image]:
    """The base alone, same prompts and seeds."""
    settings = studio.preset.settings
    pipe = studio.pipe
    studio.adapter.detach()
    try:
        generators = [torch.Generator("cpu").manual_seed(seed + i) for i in range(len(prompts))]
        images: list[Image.Image] = pipe(
            list(prompts),
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=generators,
        ).images
    finally:
        studio.adapter.attach(pipe)
    return images


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=100, show_default=True, help="Held-out people.")
@click.option("--prompts", default=len(PROMPTS), show_default=True, type=click.IntRange(1, len(PROMPTS)))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file; printed in any case.")
def main(preset: str, people: int, prompts: int, out: Path | None) -> None:
    """Share of portraits that the judge takes for the right person, with both bounds."""
    studio = ConsistentIDPipeline.from_preset(preset)
    report = json.dumps(measure(studio, people, prompts), indent=1)
    if out:
        out.write_text(report)
    click.echo(report)


if __name__ == "__main__":
    main()
