"""The scene loss: does the picture that a denoising step points to show what was asked for.

A kind of hat or glasses is a few positions of the latents, so the noise loss is nearly as low with the wrong one. This
one asks a classifier of drawings that looks at latents; neither the paper nor photographs have it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.drawn.scene_reader import FACTORS, OWN, UNSEEN, split_factors


class SceneLoss:
    """The weighted mean over factors of the cross-entropy between what latents show and what they should.

    Args:
        reader: (B, C, h, w) scaled latents to (B, V), a logit of each value of each factor of `FACTORS`; gradients flow
            through it.
    """

    def __init__(self, reader: nn.Module) -> None:
        self._reader = reader

    def __call__(self, latents: Tensor, shown: Tensor, weight: Tensor) -> Tensor:
        """The loss (B,), 0 and without gradient where no factor has a weight.

        Args:
            latents: (B, C, h, w), scaled as the UNet has them; of the reader's size where there is a weight.
            shown: (B, F) long, the number of each factor's value, or `UNSEEN`.
            weight: (B, F) of each factor; that of an unseen one does not count.
        """
        weight = weight * (shown != UNSEEN)
        rows = (weight > 0).any(1).nonzero()[:, 0]
        loss = latents.new_zeros(len(latents))
        if not len(rows):
            return loss
        logits, values, weight = self._reader(latents[rows]).float(), shown[rows].clamp(min=0), weight[rows]
        each = [
            F.cross_entropy(x, wanted, reduction="none")
            for x, wanted in zip(split_factors(logits), values.T, strict=True)
        ]
        return loss.index_copy(0, rows, ((torch.stack(each, 1) * weight).sum(1) / weight.sum(1)).to(loss.dtype))


def told(count: int, *, own: bool) -> Tensor:
    """Weights (count, F) for `SceneLoss`: 1 of what words tell of a scene, and where ``own`` of the person's own."""
    return torch.tensor([float(own or factor not in OWN) for factor in FACTORS]).expand(count, -1).clone()
