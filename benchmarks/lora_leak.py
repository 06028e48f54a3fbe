"""What the adapter's LoRA does to the part of a picture that is nobody's place, and what it would cost to keep it out.

    python benchmarks/lora_leak.py --preset drawn --people 8

One person on the left half of each picture, nobody on the right; the same noise each time. The ID tokens and the facial
words are confined to the left half, the LoRA works on every position. It is compared with a LoRA that works on the left
half alone (in self- and cross-attention, on the picture's positions and on the person's words, by forward hooks), and
with none. Prints JSON: mean absolute difference of pixels (0 to 255) of each half between these pictures, and the
likeness that each reaches by the preset's judge.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from consistentid import ConsistentIDPipeline
from consistentid.adapter.injection import LORA_NAME, attention_layers
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.analyzer import embed_largest

PLACE = (0.0, 0.0, 0.5, 1.0)
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


@contextmanager
def lora_share(studio: ConsistentIDPipeline, *, within: bool) -> Iterator[None]:
    """The LoRA on the people's positions and words alone, or nowhere."""
    reader = studio.adapter.reader

    def shares(tokens: int, cross: bool, like: Tensor) -> Tensor:
        reading = reader.reading
        assert reading is not None
        if not within:
            return torch.zeros(tokens, 1).to(like)
        if cross:
            kept = torch.ones(tokens, 1)
            kept[: reading.text.context] = 0  # the scene's words
            return kept.to(like)
        people = reading.text.regions.weights(*reading.layer_size(tokens))  # type: ignore[union-attr]
        return people.sum(dim=0).reshape(-1, 1).to(like)

    def hook(cross: bool) -> Any:
        def run(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            added = module.scaling[LORA_NAME] * module.lora_B[LORA_NAME](module.lora_A[LORA_NAME](x))
            return output - (1 - shares(x.shape[1], cross, x)) * added

        return run

    with ExitStack() as undo:
        for name, layer in attention_layers(studio.pipe.unet).items():
            for projection in PROJECTIONS:
                cross = name.endswith("attn2") and projection in ("to_k", "to_v")
                handle = layer.get_submodule(projection).register_forward_hook(hook(cross))
                undo.callback(handle.remove)
        yield


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--people", default=8, show_default=True)
@click.option("--steps", type=int, help="Sampling steps.  [default: the preset's]")
@click.option("--prompt", default="a person at a beach", show_default=True)
def main(preset: str, people: int, steps: int | None, prompt: str) -> None:
    """Print differences and likeness."""
    studio = ConsistentIDPipeline.from_preset(preset, fold=False)
    detector = studio.analyzer.detector
    judge = studio.judge if studio.preset.judge else studio.analyzer.recogniser
    ways = {"everywhere": None, "in the place": True, "nowhere": False}
    changed: dict[str, list[float]] = {}
    alike: dict[str, list[float]] = {name: [] for name in ways}
    for person in tqdm(range(people)):
        drawn = draw(sample_people([person], split="test"), sample_scenes([(person, 0)], split="test"), 128)
        reference = Image.fromarray(drawn.pixels()[0])
        target = embed_largest(reference, detector, judge)
        if target is None:
            continue
        who = studio.identify(reference)
        call = {"regions": [PLACE], "seed": person, "num_inference_steps": steps}
        made: dict[str, Image.Image] = {}
        for name, within in ways.items():
            with ExitStack() as stack:
                if within is not None:
                    stack.enter_context(lora_share(studio, within=within))
                made[name] = studio(who, prompt, **call).images[0]
            seen = embed_largest(made[name], detector, judge)
            alike[name].append(math.nan if seen is None else float(seen @ target))
        for one, other in combinations(ways, 2):
            error = np.abs(np.asarray(made[one], float) - np.asarray(made[other], float))
            middle = error.shape[1] // 2
            changed.setdefault(f"{one} / {other}: their place", []).append(float(error[:, :middle].mean()))
            changed.setdefault(f"{one} / {other}: nobody's place", []).append(float(error[:, middle:].mean()))
    report = {
        "difference": {name: round(float(np.mean(values)), 2) for name, values in changed.items()},
        "likeness": {name: round(float(np.nanmean(values)), 3) for name, values in alike.items()},
        "faces found": {name: int(np.isfinite(values).sum()) for name, values in alike.items()},
    }
    click.echo(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
