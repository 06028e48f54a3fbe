"""Noisy latents that the model has sampled itself, for the losses that look at the picture a step points to.

What noise leaves of a training picture tells much of its face, and a picture that is being made has no such help: it
holds what the model put there in the steps before. So a likeness is best learnt from its own pictures (ReFL, Xu et al.,
arXiv 2304.05977, section 3.2; PuLID, Guo et al., arXiv 2404.16022, section 3.2). These begin at a picture with much
noise, by which faces stay about where their landmarks are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from consistentid.training.losses import clean_latents

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Noisy latents (B, C, h, w) and timesteps (B,) to the prediction (B, C, h, w)."""


@torch.no_grad()
def sampled(denoise: Denoise, schedule: DDPMScheduler, noisy: Tensor, begin: Tensor, end: Tensor, steps: int) -> Tensor:
    """Latents (B, C, h, w) at timestep ``end`` that DDIM makes of those at ``begin``.

    Args:
        denoise: the model, of the schedule's prediction type.
        schedule: of the noise.
        noisy: (B, C, h, w).
        begin, end: (B,) long; end is not after begin.
        steps: number of predictions.
    """
    signals = schedule.alphas_cumprod.to(noisy.device)
    # Casts that autocast keeps would lack a gradient in the pass after this one.
    with torch.autocast(noisy.device.type, enabled=torch.is_autocast_enabled(noisy.device.type), cache_enabled=False):
        for step in range(steps):
            t, following = (begin + (end - begin) * done // steps for done in (step, step + 1))
            clean = clean_latents(noisy, denoise(noisy, t).float(), signals[t], schedule.config.prediction_type)
            signal = signals[t][:, None, None, None]
            noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
            noisy = schedule.add_noise(clean, noise, following)
    return noisy
