"""The preset with which a run's weights draw: what it extends, and the networks that were trained."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from consistentid.presets.preset import Preset
from consistentid.presets.read import preset_names
from consistentid.training.checkpoints import BASE
from consistentid.training.config import TrainConfig


def run_preset(folder: Path, run: Path, config: TrainConfig, preset: Preset) -> str:
    """YAML of a preset that draws with the weights in a folder; it names no place outside what moves with the run.

    Args:
        folder: of the weights and of this file: the run's or a checkpoint's.
        run: folder of the run.
        config: its recipe.
        preset: the recipe's, with the networks that the recipe names.
    """
    named = config.preset in preset_names()
    tree = run.resolve().parent  # what lies here moves along
    content: dict[str, Any] = {"extends": config.preset if named else _seen_from(folder, Path(config.preset), tree)}
    for name in config.networks:
        content[name] = _plain(getattr(preset, name), folder, tree)
    content["adapter"] = "./"
    if "unet" in config.trained:
        content["base"] = f"./{BASE}"
    return yaml.safe_dump(content, sort_keys=False)


def write_base(pipe: Any, unet_config: str, unet: Mapping[str, Tensor], projection: Path | None, folder: Path) -> None:
    """The base with a trained UNet, in half precision; the networks in training stay as they are.

    Args:
        pipe: the pipeline in training.
        unet_config: of its UNet, as JSON, before the adapter was attached.
        unet: the trained weights.
        projection: what lies beside the base's text encoder, see `text_projection`; that encoder has not learnt.
        folder: to write to.
    """
    from diffusers import UNet2DConditionModel

    trained = UNet2DConditionModel.from_config(json.loads(unet_config))
    trained.load_state_dict(unet)
    kept = {name: part for name, part in pipe.components.items() if name != "unet"}
    copies = {name: deepcopy(part) if isinstance(part, nn.Module) else part for name, part in kept.items()}
    asked = signature(type(pipe).__init__).parameters
    options = {name: value for name, value in pipe.config.items() if name in asked and name not in pipe.components}
    type(pipe)(**copies, unet=trained, **options).to(dtype=torch.float16).save_pretrained(folder)
    if projection:
        shutil.copyfile(projection, folder / "text_encoder" / projection.name)


def _plain(value: Any, folder: Path, tree: Path) -> Any:
    """A network of a preset, or another of its values, as the YAML file in a folder has it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item, folder, tree) for key, item in value.items() if item not in (None, "", 0, (), {})}
    if isinstance(value, list | tuple):
        return [_plain(item, folder, tree) for item in value]
    return _seen_from(folder, value, tree) if isinstance(value, Path) else value


def _seen_from(folder: Path, path: Path, tree: Path) -> str:
    """A path relative to a folder if it lies in a tree that moves as a whole, else absolute."""
    path = path.resolve()
    if not path.is_relative_to(tree):
        return str(path)
    return Path(os.path.relpath(path, folder.resolve())).as_posix()
