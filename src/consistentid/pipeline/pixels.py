"""From what a pipeline samples to pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from consistentid.errors import PipelineError
from consistentid.pipeline.request import Row


@torch.no_grad()
def decoded(pipe: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents, as the pipeline itself decodes them at the end."""
    vae = pipe.vae
    upcast = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        vae.to(torch.float32)  # half precision overflows in this one
    try:
        scaled = latents.detach().to(vae.dtype) / vae.config.scaling_factor
        mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            mean, std = (torch.tensor(x).view(1, -1, 1, 1).to(scaled) for x in (mean, std))
            scaled = scaled * std + mean
        pixels = vae.decode(scaled, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(torch.float16)
    images: list[Image.Image] = pipe.image_processor.postprocess(pixels.float(), output_type="pil")
    return images


def pictures(pipe: Any, pixels: torch.Tensor, batch: Sequence[Row]) -> list[Image.Image]:
    """RGB pictures of (B, 3, H, W) pixels in [0, 1].

    Raises:
        PipelineError: some are no numbers.
    """
    finite = pixels.flatten(1).isfinite().all(dim=1).tolist()
    if broken := [str(row.seed) for row, whole in zip(batch, finite, strict=True) if not whole]:
        raise PipelineError(
            f"the pictures of seed {', '.join(broken)} hold values that are not finite: the networks overflow at"
            f" {pipe.unet.dtype} in the UNet or {pipe.vae.dtype} in the VAE, or their weights or a LoRA's strength are"
            " out of range; try --dtype float32, or leave out LoRAs"
        )
    processor = pipe.image_processor
    images: list[Image.Image] = processor.numpy_to_pil(processor.pt_to_numpy(pixels))
    return images
