"""The latent reader: tells from latents what a drawing shows, for the scene loss of UNet and adapter.

What words ask for is small, and the noise loss hardly sees it: a base that had learnt from a million pictures drew some
glasses for any. This reader tells in every step. The `scene_reader`, which measures adherence, is another network.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.pools import Pool, shown_on
from consistentid.drawn.scene_reader import VALUES
from consistentid.training.drawn.latents import Latents, open_latents
from consistentid.training.drawn.loop import Losses, train
from consistentid.training.drawn.onnx_network import Network, export
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.drawn.scene_reader import rightly_read
from consistentid.training.scenes import Asked, factor_loss
from consistentid.training.schedule import batched

_NOISE = 0.7  # largest deviation on latents, which have one of 1
_BLURRED = 0.3  # of the latents


def train_latent_reader(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/latent_reader.onnx``; reports how often it is right on drawings of held-out people, by factor."""
    section = recipe.section("latent_reader")
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    vae = ConvAutoencoderKL.from_pretrained(out / "vae").float().to(device).eval()
    latents, held_latents = (open_latents(x, vae, out, device) for x in (pool, held_out))
    _, channels, size, _ = latents.shape
    torch.manual_seed(section.schedule.seed)
    network = Network(size, VALUES, channels=channels, **section.network).to(device)

    def loss(batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Losses:
        z, values = batch
        logits = network(guessed(z.to(device).float(), generator)).float()
        return {"loss": factor_loss(logits, Asked.all_of(values.to(device))).mean()}

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = np.arange(len(held_out))
        found = torch.cat([network(held_latents[rows[part]].to(device).float()) for part in batched(len(rows), 64)])
        return rightly_read(found, torch.from_numpy(shown_on(held_out, rows)).to(device))

    if train(
        "latent_reader", network, loss, section.schedule, len(pool), out, device=device,
        prepared=partial(_batch, pool, latents), workers=recipe.ahead, report=report, precision=recipe.precision,
    ):  # fmt: skip
        export(network.cpu(), out / "latent_reader.onnx", "logits")


def guessed(z: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) with the flaws of those that a denoising step points to: blurred, noisy."""
    blurred, by, noise = torch.rand(3, len(z), 1, 1, 1, generator=generator, device=z.device)
    by = 0.8 * by * (blurred < _BLURRED)
    smooth = F.avg_pool2d(F.pad(z, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    random = torch.randn(z.shape, generator=generator, device=z.device)
    flawed: Tensor = z * (1 - by) + smooth * by + _NOISE * noise**2 * random
    return flawed


def _batch(pool: Pool, latents: Latents, rows: NDArray[np.int64], _seed: int) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w), and what their pictures show (B, F)."""
    rows = np.sort(rows)
    return latents[rows], torch.from_numpy(shown_on(pool, rows))
