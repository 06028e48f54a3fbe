"""The drawings that all networks learn from and are held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consistentid.drawn.pools import copied
from consistentid.training.drawn.recipe import Mixture, Recipe


def labelled(mixture: Mixture, rows: NDArray[np.int64], seed: int) -> tuple[Tensor, Tensor]:
    """A batch of a mixture: pictures (B, H, W, 3) and labels (B, H, W), uint8."""
    _, pool, rows = mixture.batch(rows, seed)
    return copied(pool.images, rows), copied(pool.labels, rows)


def draw_pictures(recipe: Recipe, _out: Path, _device: torch.device) -> None:
    """Draw the pictures of every split, as far as they are not there yet."""
    for split in recipe.splits:
        recipe.mixture(split)
