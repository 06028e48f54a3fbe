"""The scene loss: does a picture, or do the latents that a denoising step points to, show what was asked for.

A kind of hat or glasses is a few positions of the latents, so the noise loss is nearly as low with the wrong one. This
one asks a classifier of drawings that looks at latents; neither the paper nor photographs have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.drawn.scene_reader import FACTORS, OWN, UNSEEN, split_factors


@dataclass(frozen=True, eq=False)
class Asked:
    """What B pictures should show.

    Attributes:
        shown: (B, F) long, the number of each factor's value, or `UNSEEN`.
        weight: (B, F) of each factor; that of an unseen one does not count.
    """

    shown: Tensor
    weight: Tensor

    @classmethod
    def all_of(cls, shown: Tensor) -> Self:
        """Every factor that is seen, (B, F), with the same weight."""
        return cls(shown, torch.ones(shown.shape, device=shown.device))

    @property
    def counted(self) -> Tensor:
        """(B, F): the weight of each factor, 0 where it is not seen."""
        return self.weight * (self.shown != UNSEEN)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(self.shown.to(device), self.weight.to(device))


class SceneLoss:
    """`factor_loss` of what a reader sees in latents.

    Args:
        reader: (B, C, h, w) scaled latents to (B, V), a logit of each value of each factor of `FACTORS`; gradients flow
            through it.
    """

    def __init__(self, reader: nn.Module) -> None:
        self._reader = reader

    def __call__(self, latents: Tensor, asked: Asked) -> Tensor:
        """The loss (B,), 0 and without gradient where no factor has a weight.

        Args:
            latents: (B, C, h, w), scaled as the UNet has them; of the reader's size where there is a weight.
            asked: of each of them.
        """
        rows = (asked.counted > 0).any(1).nonzero()[:, 0]
        loss = latents.new_zeros(len(latents))
        if not len(rows):
            return loss
        found = factor_loss(self._reader(latents[rows]).float(), Asked(asked.shown[rows], asked.weight[rows]))
        return loss.index_copy(0, rows, found.to(loss.dtype))


def factor_loss(logits: Tensor, asked: Asked) -> Tensor:
    """The weighted mean over factors of their cross-entropy (B,), 0 where none counts; logits (B, V) of
    `split_factors`."""
    weight, values = asked.counted, asked.shown.clamp(min=0)
    each = [
        F.cross_entropy(x, wanted, reduction="none") for x, wanted in zip(split_factors(logits), values.T, strict=True)
    ]
    return (torch.stack(each, 1) * weight).sum(1) / weight.sum(1).clamp(min=1e-6)


def told(count: int, *, own: bool) -> Tensor:
    """Weights (count, F) of `Asked`: 1 of what words tell of a scene, and where ``own`` of the person's own."""
    return torch.tensor([float(own or factor not in OWN) for factor in FACTORS]).expand(count, -1).clone()
