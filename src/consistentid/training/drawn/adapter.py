"""The adapter on the networks of the same run."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from consistentid.training.config import TrainConfig
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.stopping import Stopped
from consistentid.training.trainer import Trainer, claimed_run


def train_adapter(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train ``out/adapter`` as `consistentid train` does, with the networks that lie in ``out``.

    Unless the recipe names others, its identity loss asks teacher and recogniser of ``out``.

    Raises:
        Stopped: it was told to stop, and has saved.
    """
    networks = {
        "base": out / "base",
        "image_encoder": out / "image_encoder",
        "recogniser": out / "recogniser.onnx",
        "parser": out / "parser.onnx",
    }
    changes = [f"adapter.networks.{role}={_quoted(path)}" for role, path in networks.items()]
    changes.append(f"adapter.workers={recipe.ahead}")
    changes.append(f"adapter.latent_reader={_quoted(out / 'latent_reader.onnx')}")
    if not (recipe.content["adapter"] or {}).get("identity_recognisers"):
        seen_by = ", ".join(_quoted(out / name) for name in ("teacher.onnx", "recogniser.onnx"))
        changes.append(f"adapter.identity_recognisers=[{seen_by}]")
    adapters = tuple(x for x in recipe.changes if x.split(".")[0] in ("adapter", "size", "pictures", "groups"))
    config = TrainConfig.from_yaml(recipe.path, (*adapters, *changes))
    chosen = "cpu" if device.type == "cpu" else None
    with claimed_run(out / "adapter"):
        trainer = Trainer(config, out / "adapter", cache=recipe.cache, device=chosen)
        finished = trainer.train()
    if not finished:
        raise Stopped(f"adapter stopped after step {trainer.step}; the same line goes on from there")


def _quoted(path: Path) -> str:
    return yaml.safe_dump(str(path.absolute()), default_style='"', width=10**6).strip()
