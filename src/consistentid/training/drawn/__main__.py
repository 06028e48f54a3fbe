"""Command line: ``python -m consistentid.training.drawn RECIPE NETWORK --out RUN``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click
import torch

from consistentid.training.drawn.recipe import Recipe

NETWORKS = {
    "pictures": ("pictures", ""),
    "autoencoder": ("autoencoder", "train_autoencoder"),
    "decoder": ("autoencoder", "train_decoder"),
    "clip": ("clip", "train_clip"),
    "parser": ("parser", "train_parser"),
    "recogniser": ("recogniser", "train_recogniser"),
    "teacher": ("recogniser", "train_teacher"),
    "judge": ("recogniser", "train_judge"),
    "scene_reader": ("scene_reader", "train_scene_reader"),
    "unet": ("unet", "train_unet"),
    "package": ("package", "package"),
}


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("network", type=click.Choice(list(NETWORKS)))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoints and networks.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of drawn pictures.  [default: OUT/cache]")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes that draw pictures.")
def main(recipe: Path, network: str, out: Path, cache: Path | None, device: str, workers: int) -> None:
    """Train one NETWORK of the drawn preset, or go on where an interrupted run stopped."""
    opened = Recipe(recipe, cache or out / "cache", workers)
    if network == "pictures":
        for split in opened.content["pictures"]:
            opened.pool(split)
        return
    module, function = NETWORKS[network]
    getattr(import_module(f"consistentid.training.drawn.{module}"), function)(opened, out, torch.device(device))


if __name__ == "__main__":
    main()
