"""The scene reader: a classifier that tells what a drawing shows, by which adherence to words is measured."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from consistentid.drawn.pools import Pool, pixels, shown_on
from consistentid.drawn.scene_reader import FACTORS, UNSEEN, VALUES, split_factors
from consistentid.training.drawn.loop import Losses, train
from consistentid.training.drawn.onnx_network import Network, export, flawed
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.scenes import Asked, factor_loss
from consistentid.training.schedule import Schedule, batched


def rightly_read(logits: Tensor, values: Tensor) -> dict[str, float]:
    """How often each factor is read rightly where it is seen; logits (K, V) of `split_factors`, values (K, F)."""
    right = {}
    for factor, x, wanted in zip(FACTORS, split_factors(logits), values.T, strict=True):
        seen = wanted != UNSEEN
        right[factor] = float((x.argmax(1) == wanted)[seen].float().mean())
    return right


def train_scene_reader(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/scene_reader.onnx``; reports how often it is right on drawings of held-out people, by factor."""
    section = recipe.section("scene_reader")
    schedule: Schedule = section.schedule
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    torch.manual_seed(schedule.seed)
    network = Network(pool.spec.size, VALUES, **section.network).to(device)

    def loss(batch: tuple[Tensor, Tensor], _generator: torch.Generator) -> Losses:
        pictures, values = batch
        logits = network(pixels(pictures, device)).float()
        return {"loss": factor_loss(logits, Asked.all_of(values.to(device))).mean()}

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = np.arange(len(held_out))
        found = torch.cat([network(pixels(held_out.images[rows[part]], device)) for part in batched(len(rows), 64)])
        return rightly_read(found, torch.from_numpy(shown_on(held_out, rows)).to(device))

    count, precision = len(pool), recipe.precision
    if train(
        "scene_reader", network, loss, schedule, count, out, device=device, prepared=partial(_flawed, pool),
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        export(network.cpu(), out / "scene_reader.onnx", "logits")


def _flawed(pool: Pool, rows: NDArray[np.int64], seed: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, H, W, 3) uint8 with flaws, and what they show (B, F)."""
    rng = np.random.default_rng(seed)
    pictures = [np.asarray(flawed(Image.fromarray(pool.images[row]), rng)) for row in rows]
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(shown_on(pool, rows))
