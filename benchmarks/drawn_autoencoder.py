"""What the drawn preset's autoencoder loses, by function: whether judge and scene reader see the same after it.

    python benchmarks/drawn_autoencoder.py --preset drawn --people 200 --scenes 4

Held-out drawings are encoded and decoded. Prints JSON: of the drawings that the judge accepts as their person (against
another drawing of them, at 1 % false accepts), the share that it still accepts after decoding; and of those whose hat,
clothes, glasses, ... the scene reader reads rightly, the share that it still does. Noise on the latents shows what
inexact ones, such as a UNet's, make of it.
"""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from consistentid import ConsistentIDPipeline
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.drawn.scene_reader import FACTORS, UNSEEN, shown
from consistentid.evaluation.encoders import load_encoders
from consistentid.faces.analyzer import embed_largest

SIZE = 128


@torch.no_grad()
def decoded(studio: ConsistentIDPipeline, pixels: NDArray[np.uint8], noise: float, seed: int) -> list[Image.Image]:
    """The pictures (B, S, S, 3) after the autoencoder, with noise of so many deviations on their latents."""
    pipe = studio.pipe
    vae, process = pipe.vae, pipe.image_processor
    x = process.preprocess([Image.fromarray(picture) for picture in pixels]).to(vae.device, vae.dtype)
    z = vae.encode(x).latent_dist.mode()
    generator = torch.Generator(vae.device).manual_seed(seed)
    z = z + noise * z.std() * torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
    images: list[Image.Image] = process.postprocess(vae.decode(z).sample)
    return images


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=200, show_default=True)
@click.option("--scenes", default=4, show_default=True, help="Pictures of each person.")
@click.option("--noise", default="0,0.1,0.2", show_default=True, help="Deviations of the latents' noise.")
def main(preset: str, people: int, scenes: int, noise: str) -> None:
    """Print the shares."""
    studio = ConsistentIDPipeline.from_preset(preset)
    encoders = load_encoders(studio)
    detector, judge, reader = studio.analyzer.detector, studio.judge, encoders.scenes
    if reader is None:
        raise click.UsageError(f"{preset} has no scene reader")
    ways = ["drawing", *map(float, noise.split(","))]
    faces: dict[Any, list[Any]] = {way: [] for way in ways}
    right: dict[Any, list[Any]] = {way: [] for way in ways}
    truths, references, errors = [], [], []
    for person in tqdm(range(people), desc="people"):
        numbers = range(scenes + 1)
        who = sample_people([person] * (scenes + 1), split="test")
        where = sample_scenes([(person, scene) for scene in numbers], split="test", framing="portrait")
        pixels = np.stack(list(draw(who, where, SIZE).pixels()))
        references.append(embed_largest(Image.fromarray(pixels[0]), detector, judge))
        truths.append(shown(who, where)[1:])
        for way in ways:
            shots = [Image.fromarray(x) for x in pixels[1:]]
            if way != "drawing":
                shots = decoded(studio, pixels[1:], float(way), person)
            if way == 0:
                errors += [
                    float(np.square(np.subtract(a, b, dtype=np.float32)).mean())
                    for a, b in zip(shots, pixels[1:], strict=True)
                ]
            faces[way].append([embed_largest(shot, detector, judge) for shot in shots])
            right[way].append(reader.read(shots))
    threshold = _threshold(references, faces["drawing"])
    truth, accepted, report = np.concatenate(truths), {}, {}
    for way in ways:
        accepted[way] = np.array(
            [
                reference is not None and face is not None and float(reference @ face) >= threshold
                for reference, found in zip(references, faces[way], strict=True)
                for face in found
            ]
        )
        right[way] = np.concatenate(right[way]) == truth
        name = "drawing" if way == "drawing" else f"decoded, noise {way:g}"
        before, kept = right["drawing"] & (truth != UNSEEN), right["drawing"] & right[way] & (truth != UNSEEN)
        report[name] = {
            "accepted": round(float(accepted[way].mean()), 3),
            "accepted of those accepted before": round(float(accepted[way][accepted["drawing"]].mean()), 3),
            "read rightly of those before": {
                factor: round(float(kept[:, i].sum() / max(before[:, i].sum(), 1)), 3)
                for i, factor in enumerate(FACTORS)
            },
        }
    psnr = 10 * np.log10(255**2 / np.mean(errors)) if errors else None
    click.echo(json.dumps({"judge accepts from": round(threshold, 3), "PSNR (dB)": psnr, **report}, indent=1))


def _threshold(references: list[Any], faces: list[list[Any]]) -> float:
    """The cosine that 1 % of pictures of somebody else reach."""
    others = [
        float(reference @ face)
        for i, reference in enumerate(references)
        for found in faces[i + 1 :: 7]
        for face in found
        if reference is not None and face is not None
    ]
    return float(np.quantile(others, 0.99))


if __name__ == "__main__":
    main()
