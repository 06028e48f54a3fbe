"""The autoencoder: pictures to latents and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.drawn.pools import Pool, pixels
from consistentid.files.writing import replacing_folder
from consistentid.nn.patch_autoencoder import PatchAutoencoderKL
from consistentid.training.drawn.latents import open_latents
from consistentid.training.drawn.loop import Losses, train
from consistentid.training.drawn.recipe import Recipe, arguments
from consistentid.training.schedule import batched

# Eyes, brows, nose, mouth: few pixels, most of the likeness.
DETAIL_LABELS = (2, 3, 4, 5, 6, 10, 11, 12, 13)


def detail_weight(labels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(B, 1, H, W): 3 on the details of the face, 1.5 on the rest of the person, 1 elsewhere."""
    tensor = torch.from_numpy(np.array(labels)).to(device)
    details = torch.isin(tensor, torch.tensor(DETAIL_LABELS, dtype=torch.uint8, device=device))
    return (1 + 0.5 * (tensor > 0).float() + 1.5 * details.float())[:, None]


def _gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute and squared error, and the error of the edges."""
    error = y - x
    edges = sum(F.l1_loss(a, b) for a, b in zip(_gradients(y), _gradients(x), strict=True))
    return (weight * (error.abs() + error**2)).mean() + 0.5 * edges


@torch.no_grad()
def reconstruction_report(vae: PatchAutoencoderKL, held_out: Pool, device: torch.device) -> dict[str, float]:
    """Mean absolute error in [-1, 1] on held-out people, over everything and on the details of the face."""
    total, detail, latents = [], [], []
    for part in batched(min(len(held_out), 512), 32):
        x, weight = pixels(held_out.images[part], device), detail_weight(held_out.labels[part], device)
        z = vae.encode(x, return_dict=False)[0].mean
        error = (vae.decode(z, return_dict=False)[0] - x).abs()
        total.append(error.mean())
        detail.append(error[(weight > 2).expand_as(error)].mean())
        latents.append(z)
    return {
        "mean_absolute_error": float(torch.stack(total).mean()),
        "mean_absolute_error_on_facial_details": float(torch.stack(detail).mean()),
        "latent_std": float(torch.cat(latents).std()),
    }


def train_autoencoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Fit and save ``out/vae``: the best linear code of patches, found in closed form; `train_decoder` goes on."""
    section = recipe.section("autoencoder")
    torch.manual_seed(section.options["seed"])
    network = arguments(PatchAutoencoderKL, section.network, f"{section.where}: network")
    vae = PatchAutoencoderKL(sample_size=recipe.size, **network).to(device)
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    every = max(1, len(pool) // section.options["pictures"])
    vae.start_from_principal_components(pixels(pool.images[::every], device))
    vae.eval()
    figures = reconstruction_report(vae, held_out, device)
    vae.register_to_config(scaling_factor=round(1 / figures["latent_std"], 4))
    with replacing_folder(out / "vae") as folder:
        vae.half().save_pretrained(folder)
    print(json.dumps({"network": "autoencoder", "held_out": figures}))


def train_decoder(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train the decoder of ``out/vae`` further, on latents that stay as they are; the UNet is not affected."""
    section = recipe.section("decoder")
    vae = PatchAutoencoderKL.from_pretrained(out / "vae").float().to(device)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    pool, held_out = recipe.pool("train"), recipe.pool("validation")
    latents = open_latents(pool, vae, out, device)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])

    def loss(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        rows = np.sort(rows)
        x, weight = pixels(pool.images[rows], device), detail_weight(pool.labels[rows], device)
        z = torch.from_numpy(latents[rows]).float().to(device)
        # Generated latents are never quite those of a picture.
        z = z + section.options["noise"] * torch.randn(z.shape, generator=generator, device=device)
        y = vae.decode(z / vae.config.scaling_factor).sample.float()
        return {"loss": reconstruction_loss(y, x, weight), "l1": (y - x).abs().mean()}

    def report() -> dict[str, float]:
        return reconstruction_report(vae, held_out, device)

    schedule, precision = section.schedule, recipe.precision
    if train("decoder", decoder, loss, schedule, len(pool), out, device=device, report=report, precision=precision):
        with replacing_folder(out / "vae") as folder:
            vae.half().save_pretrained(folder)
