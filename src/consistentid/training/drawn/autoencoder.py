"""The autoencoder: pictures to latents and back, first to the pixel, then to the eye.

`train_autoencoder` learns both halves by the error of the pictures. What is left of the error then is blur, since the
mean of all sharp pictures that the latents allow is a soft one; `train_decoder` goes on with the decoder alone, against
a critic that tells drawings from decoded ones, on latents as inexact as a diffusion model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.pools import Pool, copied, pixels
from consistentid.files.writing import replacing_folder
from consistentid.training.drawn.latents import Latents, open_latents
from consistentid.training.drawn.loop import Losses, Opponent, train
from consistentid.training.drawn.pictures import labelled
from consistentid.training.drawn.recipe import Mixture, Recipe, arguments
from consistentid.training.schedule import batched

# Eyes, brows, nose, mouth: few pixels, most of the likeness.
DETAIL_LABELS = (2, 3, 4, 5, 6, 10, 11, 12, 13)


def detail_weight(labels: Tensor, device: torch.device) -> Tensor:
    """(B, 1, H, W) of labels (B, H, W): 4.5 on the details of the face, 1.5 on the rest of the person, 1 elsewhere."""
    tensor = labels.to(device, non_blocking=True)
    details = torch.isin(tensor, torch.tensor(DETAIL_LABELS, dtype=torch.uint8, device=device))
    return (1 + 0.5 * (tensor > 0).float() + 3.0 * details.float())[:, None]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute and squared error, and the error of the edges."""
    error = y - x
    edges = sum(F.l1_loss(a, b) for a, b in zip(_gradients(y), _gradients(x), strict=True))
    return (weight * (error.abs() + error**2)).mean() + edges


class Critic(nn.Module):
    """Tells drawings from decoded ones, patch by patch: pictures (B, 3, H, W) -> scores (B, 1, H/8, W/8)."""

    def __init__(self, channels: tuple[int, ...] = (48, 64, 96)) -> None:
        super().__init__()
        layers = [spectral_norm(nn.Conv2d(12, channels[0], 3, padding=1))]
        for before, width in pairwise(channels):
            layers.append(spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)))
        self.layers = nn.ModuleList(layers)
        self.score = spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, above 0 for a drawing, and the features of every layer."""
        features = []
        x = F.pixel_unshuffle(x, 2)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.score(x).float(), features


@torch.no_grad()
def reconstruction_report(vae: ConvAutoencoderKL, held_out: Pool, device: torch.device) -> dict[str, float]:
    """Errors in [-1, 1] on held-out people, over everything and on the details of the face."""
    total, squared, detail, latents = [], [], [], []
    for part in batched(min(len(held_out), 512), 32):
        x, weight = pixels(held_out.images[part], device), detail_weight(copied(held_out.labels, part), device)
        z = vae.encode(x, return_dict=False)[0].mean
        error = vae.decode(z, return_dict=False)[0] - x
        total.append(error.abs().mean())
        squared.append((error**2).mean())
        detail.append(error.abs()[(weight > 2).expand_as(error)].mean())
        latents.append(z)
    return {
        "mean_absolute_error": float(torch.stack(total).mean()),
        "mean_absolute_error_on_facial_details": float(torch.stack(detail).mean()),
        "psnr": float(-10 * torch.log10(torch.stack(squared).mean() / 4)),
        "latent_std": float(torch.cat(latents).std()),
    }


def train_autoencoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/vae``; reports the error on held-out people. `train_decoder` goes on."""
    section = recipe.section("autoencoder")
    torch.manual_seed(section.schedule.seed)
    network = arguments(ConvAutoencoderKL, section.network, f"{section.where}: network")
    vae = ConvAutoencoderKL(sample_size=recipe.size, **network).to(device)
    if recipe.compile:
        vae.encoder.compile()
        vae.decoder.compile()
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    noise = section.options["noise"]

    def loss(batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Losses:
        images, labels = batch
        x, weight = _mirrored(pixels(images, device), detail_weight(labels, device), generator)
        z = vae.encode(x, return_dict=False)[0].mean
        y = vae.decode(_inexact(z, noise, generator), return_dict=False)[0].float()
        return {"loss": reconstruction_loss(y, x, weight), "l1": (y - x).abs().mean()}

    def report() -> dict[str, float]:
        _settle(vae, mixture.portraits, device)
        return reconstruction_report(vae, held_out, device)

    schedule, count, precision = section.schedule, len(mixture.portraits), recipe.precision
    if train(
        "autoencoder", vae, loss, schedule, count, out, device=device, prepared=partial(labelled, mixture),
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        with replacing_folder(out / "vae") as folder:
            vae.half().save_pretrained(folder)


@torch.no_grad()
def _settle(vae: ConvAutoencoderKL, pool: Pool, device: torch.device, pictures: int = 4096) -> None:
    """Measure the deviations of the latents anew: the weights are averages over steps, those were not."""
    normalise = vae.encoder.normalise
    normalise.reset_running_stats()
    normalise.train()
    momentum, normalise.momentum = normalise.momentum, None  # None: the plain mean over all batches
    rows = np.linspace(0, len(pool) - 1, min(pictures, len(pool))).astype(np.int64)
    for part in batched(len(rows), 64):
        vae.encode(pixels(pool.images[rows[part]], device))
    normalise.momentum = momentum
    normalise.eval()


def _mirrored(x: Tensor, weight: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half of the pictures, with their weights, seen in a mirror."""
    mirror = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device) < 0.5
    return torch.where(mirror, x.flip(3), x), torch.where(mirror, weight.flip(3), weight)


def _inexact(z: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Latents as a diffusion model makes them: never quite those of a picture, some less than others.

    What bears noise is told by all of a picture's latents together, and a UNet need not hit each of them.
    """
    spread = noise * torch.rand(len(z), 1, 1, 1, generator=generator, device=z.device)
    return z + spread * torch.randn(z.shape, generator=generator, device=z.device)


def train_decoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train the decoder of ``out/vae`` further, against a critic; the latents stay, so the UNet is not affected."""
    section = recipe.section("decoder")
    torch.manual_seed(section.schedule.seed)
    vae = ConvAutoencoderKL.from_pretrained(out / "vae").float().to(device).requires_grad_(False)
    vae.decoder.requires_grad_(True)
    critic = Critic().to(device)
    if recipe.compile:
        vae.decoder.compile()
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    latents = [open_latents(pool, vae, out, device) for pool in mixture.pools]
    prepared = partial(_with_latents, mixture, latents)
    options = section.options
    pair: dict[str, Tensor] = {}  # of the step: a drawing and what the decoder makes of it, for the critic

    def loss(batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Losses:
        images, labels, latent = batch
        x, weight = pixels(images, device), detail_weight(labels, device)
        z = latent.to(device).float()
        y = vae.decode(_inexact(z, options["noise"], generator), return_dict=False)[0].float()
        pair.update(drawn=x, decoded=y.detach())
        with torch.no_grad():
            _, wanted = critic(x)
        judged, found = critic(y)
        features = sum(F.l1_loss(a.float(), b.float()) for a, b in zip(found, wanted, strict=True))
        rebuilt = reconstruction_loss(y, x, weight)
        total = rebuilt + options["features"] * features - options["adversarial"] * judged.mean()
        return {"loss": total, "rebuilt": rebuilt, "features": features}

    def tell_apart(_batch: object, _generator: torch.Generator) -> Losses:
        real, fake = critic(pair["drawn"])[0], critic(pair["decoded"])[0]
        return {"loss": F.relu(1 - real).mean() + F.relu(1 + fake).mean()}

    def report() -> dict[str, float]:
        return reconstruction_report(vae, held_out, device)

    schedule, count = section.schedule, len(mixture.portraits)
    opponent = Opponent("critic", critic, tell_apart, replace(schedule, lr=2 * schedule.lr, ema=0.0))
    if train(
        "decoder", vae.decoder, loss, schedule, count, out, device=device, prepared=prepared, workers=recipe.ahead,
        report=report, opponents=[opponent], precision=recipe.precision,
    ):  # fmt: skip
        with replacing_folder(out / "vae") as folder:
            vae.half().save_pretrained(folder)


def _with_latents(
    mixture: Mixture, latents: Sequence[Latents], rows: NDArray[np.int64], seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's pictures and labels, as of `labelled`, and their latents (B, C, h, w)."""
    number, pool, rows = mixture.batch(rows, seed)
    return copied(pool.images, rows), copied(pool.labels, rows), latents[number][rows]
