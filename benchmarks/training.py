"""Samples per second of a training step, against a step that keeps nothing and attends without a fused kernel.

    python benchmarks/training.py [--preset drawn] [--size 64] [--batch 8] [--rounds 5]

Both learn from the same data set of drawings with the same losses and weights, one step of each in turn; the ratio is
that of the medians. "everything anew" runs autoencoder, text encoder, image encoder and recogniser in every step, cuts
the parts out again, and computes attention as a softmax over a full matrix, as the reference's processors do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from diffusers.models.attention_processor import AttnProcessor

from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.training.config import CACHEABLE, TrainConfig
from consistentid.training.examples import Examples, Places
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase
from consistentid.training.schedule import Schedule
from consistentid.training.sources import DatasetSource

PEOPLE, SCENES = 8, 2


def steps(config: TrainConfig, folder: Path, device: torch.device, *, fused: bool) -> Iterator[Callable[[], None]]:
    """One function a training step, over the same few samples again and again."""
    frozen = FrozenNetworks(config, folder / "cache", device)
    if not fused:
        frozen.pipe.unet.set_attn_processor(AttnProcessor())
    model = AdapterOnBase(config, frozen).to(device)
    source = DatasetSource(folder / "data")
    examples = Examples(config, source, frozen, model.cid.spec)
    parameters = [x for x in model.parameters() if x.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.schedule.lr)

    def step(places: list[Any]) -> None:
        optimiser.zero_grad(set_to_none=True)
        batch = examples.batch([examples[place] for place in places]).to(device)
        model(batch)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.schedule.clip)
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    for places in Places(config, source, 0):
        yield lambda places=places: step(places)


@click.command()
@click.option("--preset", default="drawn", show_default=True)
@click.option("--size", default=64, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Timed steps of each, after two epochs that are not.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def main(preset: str, size: int, batch: int, rounds: int, device: str) -> None:
    """Print both speeds and their ratio."""
    warm = 3 * -(-PEOPLE * SCENES // batch)
    schedule = Schedule(steps=warm + rounds, batch=batch, lr=1e-4)
    fixed = {
        "schedule": schedule,
        "size": size,
        "preset": preset,
        "init": "preset",
        "views": 1,
        "text_only": 0.0,
        "fixed_sentence": 0.0,
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_dataset(Drawing(PEOPLE, SCENES, size, "train", 0), folder / "data", photos=False)
        kinds = {
            "ours": steps(TrainConfig(**fixed, cache=CACHEABLE), folder, torch.device(device), fused=True),
            "everything anew": steps(TrainConfig(**fixed, cache=()), folder, torch.device(device), fused=False),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(warm + rounds):
            for kind, each in kinds.items():
                step = next(each)
                if number < warm and kind != "ours":
                    continue  # only ours has something to keep
                began = time.perf_counter()
                step()
                if number >= warm:
                    seconds[kind].append(time.perf_counter() - began)
    speed = {kind: batch / statistics.median(each) for kind, each in seconds.items()}
    for kind, value in speed.items():
        print(f"{kind:16} {value:8.2f} samples/s")
    print(f"ratio            {speed['ours'] / speed['everything anew']:8.2f}")


if __name__ == "__main__":
    main()
