"""The losses of ConsistentID training, as pure functions (paper, section 3.4). Each gives one value a sample, so
that a batch may be computed in parts, by any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def noise_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of the denoiser (B,).

    Args:
        prediction, target: (B, C, h, w).
        weight: (B, 1, h, w) of every position, such as 1 on the person and 0 on the background.
    """
    error = (prediction - target) ** 2
    weight = weight.expand_as(error)
    return (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1)


def token_loss(found: Tensor, taught: Tensor) -> Tensor:
    """Mean squared error of ID tokens (B,), as a share of what the taught ones hold.

    Args:
        found, taught: (B, T, D).
    """
    error = (found.float() - taught.float()) ** 2
    return error.flatten(1).mean(1) / (taught.float() ** 2).flatten(1).mean(1).clamp(min=1e-8)


def clean_latents(noisy: Tensor, prediction: Tensor, signal: Tensor, prediction_type: str) -> Tensor:
    """The latents (B, C, h, w) without noise that a prediction points to.

    Args:
        noisy, prediction: (B, C, h, w), what the denoiser was given and gave.
        signal: (B,), the share of the variance that is not noise: the schedule's ``alphas_cumprod``.
        prediction_type: "epsilon" or "v_prediction", as in diffusers' schedulers.
    """
    signal = signal[:, None, None, None]
    scale, noise = signal.sqrt(), (1 - signal).sqrt()
    if prediction_type == "v_prediction":
        return scale * noisy - noise * prediction
    return (noisy - noise * prediction) / scale


def min_snr_weight(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Weight (B,) of samples with these signal-to-noise ratios (B,): min(SNR, gamma) over what the prediction is worth.

    See Hang et al., arXiv 2303.09556, section 3.4; ``prediction_type`` as in diffusers' schedulers.
    """
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else snr).clamp(min=1e-8)


def localisation_loss(attention: Tensor, masks: Tensor, used: Tensor) -> Tensor:
    """How much the words of the parts look beside their part (B,): mean attention outside minus inside.

    ``1/N sum_j (mean(P_j over 1 - m_j) - mean(P_j over m_j))`` with P_j divided by its spatial maximum.

    Args:
        attention: (B, N, h, w), the text cross-attention of the word of each part.
        masks: (B, N, h, w) in [0, 1], where each part is.
        used: (B, N) bool, which parts have a word in the text and pixels in the picture.

    Returns:
        (B,) in [-1, 1]; 0 where no part is used.
    """
    p = attention / attention.amax((-2, -1), keepdim=True).clamp(min=1e-8)
    inside = (p * masks).sum((-2, -1)) / masks.sum((-2, -1)).clamp(min=1e-6)
    outside = (p * (1 - masks)).sum((-2, -1)) / (1 - masks).sum((-2, -1)).clamp(min=1e-6)
    return ((outside - inside) * used).sum(1) / used.sum(1).clamp(min=1)


def localisation_over_layers(maps: Sequence[Tensor], masks: Tensor, used: Tensor) -> Tensor:
    """Mean of `localisation_loss` over layers of any resolution (B,).

    Args:
        maps: of each layer (B, N, h, w), averaged over its heads.
        masks: (B, N, H, W) at the highest resolution; shrunk by area to each layer's.
        used: (B, N) bool.
    """
    losses = []
    for p in maps:
        mask = F.interpolate(masks, p.shape[-2:], mode="area")
        losses.append(localisation_loss(p.float(), mask, used & (mask.amax((-2, -1)) > 0.05)))
    return torch.stack(losses).mean(0)
