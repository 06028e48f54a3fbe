"""The autoencoder: pictures to latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from consistentid.training.stack.loop import Losses, batched, train
from consistentid.training.stack.recipe import Recipe

# Eyes, brows, nose, mouth: few pixels, most of the likeness.
DETAIL_LABELS = (2, 3, 4, 5, 6, 10, 11, 12, 13)


def pixels(images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def detail_weight(labels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 1, H, W): 3 on the details of the face, 1.5 on the rest of the person, 1 elsewhere."""
    tensor = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
    details = torch.isin(tensor, torch.tensor(DETAIL_LABELS, dtype=torch.uint8, device=device))
    return (1 + 0.5 * (tensor > 0).float() + 1.5 * details.float())[:, None]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def train_autoencoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/vae``; reports the mean absolute error in [-1, 1] on held-out people."""
    section = recipe.section("autoencoder")
    torch.manual_seed(section.schedule.seed)
    vae = AutoencoderKL(**section.network).to(device, memory_format=torch.channels_last)
    pool, held_out = recipe.pool("train"), recipe.pool("validation")

    def loss(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        x, weight = pixels(pool.images[np.sort(rows)], device), detail_weight(pool.labels[np.sort(rows)], device)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample(generator)).sample
        error = y - x
        l1 = (weight * error.abs()).mean()
        edges = sum(F.l1_loss(a, b) for a, b in zip(_gradients(y), _gradients(x), strict=True))
        kl = posterior.kl().mean() / x[0].numel()
        return {
            "loss": l1 + (weight * error**2).mean() + 0.5 * edges + section.options["kl"] * kl,
            "l1": error.abs().mean(),
            "kl": kl,
        }

    @torch.no_grad()
    def report() -> dict[str, float]:
        total, detail, latents = [], [], []
        for part in batched(min(len(held_out), 512), 32):
            x, labels = pixels(held_out.images[part], device), detail_weight(held_out.labels[part], device)
            z = vae.encode(x).latent_dist.mean
            error = (vae.decode(z).sample - x).abs()
            total.append(error.mean())
            detail.append(error[(labels > 2).expand_as(error)].mean())
            latents.append(z)
        z = torch.cat(latents)
        vae.register_to_config(scaling_factor=round(float(1 / z.std()), 4))
        return {
            "mean_absolute_error": float(torch.stack(total).mean()),
            "mean_absolute_error_on_facial_details": float(torch.stack(detail).mean()),
            "latent_std": float(z.std()),
        }

    train("autoencoder", vae, loss, section.schedule, len(pool), out, device=device, report=report)
    vae.half().save_pretrained(out / "vae")
