"""The drawings that all networks learn from and are held against."""

from __future__ import annotations

from pathlib import Path

import torch

from consistentid.training.drawn.recipe import Recipe


def draw_pictures(recipe: Recipe, _out: Path, _device: torch.device) -> None:
    """Draw the pictures of every split, as far as they are not there yet."""
    for split in recipe.splits:
        recipe.mixture(split)
