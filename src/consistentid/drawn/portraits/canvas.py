"""A batch of pictures being painted back to front, with the labels and the ink that follow every shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INK = (0.07, 0.06, 0.09)


@dataclass
class Canvas:
    """Pictures (B, 3, H, W) in [0, 1] and their labels (B, H, W), CelebAMask-HQ numbering."""

    rgb: Tensor
    labels: Tensor
    pixel: Tensor  # (B, 1, 1) width of a pixel in head units
    ink: Tensor  # (B, 1, 1) width of outlines in head units, 0 for styles without

    def __post_init__(self) -> None:
        self.inked = torch.nonzero(self.ink.flatten()).flatten()
        self.ink_rgb = torch.tensor(INK, device=self.rgb.device).view(1, 3, 1, 1)

    def coverage(self, distance: Tensor) -> Tensor:
        """Share of every pixel that lies inside the shape."""
        return (0.5 - distance / self.pixel).clamp_(0, 1)

    def fill(
        self,
        distance: Tensor,
        color: Tensor,
        label: int | None = None,
        *,
        alpha: Tensor | float = 1.0,
        outline: bool = True,
    ) -> None:
        """Paint a shape. ``color`` is (B, 3), (1, 3) or (B, 3, H, W); ``alpha`` its opacity."""
        cover = self.coverage(distance)
        if label is not None:
            self.labels.masked_fill_(cover > 0.5, label)
        self.tint(cover * alpha, color)
        if outline and len(self.inked):
            rows, half = self.inked, self.ink[self.inked] / 2
            edge = (0.5 - ((distance[rows] + half).abs() - half) / self.pixel[rows]).clamp_(0, 1) * 0.85
            if isinstance(alpha, Tensor):
                edge *= alpha[rows]
            self.rgb[rows] = torch.lerp(self.rgb[rows], self.ink_rgb, edge[:, None])

    def tint(self, amount: Tensor, color: Tensor) -> None:
        """Mix ``color``, (B, 3) or (B, 3, H, W), into every pixel by ``amount`` (B, H, W)."""
        if color.ndim == 2:
            color = color[:, :, None, None]
        self.rgb.lerp_(color.expand_as(self.rgb), amount[:, None].expand_as(self.rgb))
