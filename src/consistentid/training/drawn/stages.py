"""The trainings of the drawn preset's networks in their order: what each reads, needs and leaves, and what is done."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from consistentid.files.claims import claimed
from consistentid.files.config import plain
from consistentid.files.writing import write_whole
from consistentid.training import checkpoints
from consistentid.training.drawn.loop import STATE, stage_folder
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.state import DamagedError, read_about

NOTE = "recipe.json"
DONE = "done.json"
"""In a stage's folder: of which recipe it is; and when it is done, how long it took in how many processes."""

Function = Callable[[Recipe, Path, torch.device], None]


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        name: on the command line, and of the recipe's section, if it has one.
        function: "module:function" of this package, called with recipe, folder and device.
        needs: stages whose results it works on.
        makes: files and folders that it leaves in the run's folder.
        alone: the first process does it, and the others wait.
    """

    name: str
    function: str
    needs: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    alone: bool = False

    def run(self, recipe: Recipe, out: Path, device: torch.device) -> None:
        """Do it."""
        module, _, function = self.function.partition(":")
        run: Function = getattr(import_module(f"{__package__}.{module}"), function)
        run(recipe, out, device)

    def spent(self, out: Path) -> float:
        """Seconds that went into the checkpoint from which it goes on."""
        if self.name == "adapter":
            return float(checkpoints.told(out / "adapter").get("seconds", 0.0))
        try:
            return float(read_about(stage_folder(out, self.name) / STATE).get("seconds", 0.0))
        except (FileNotFoundError, DamagedError):  # which is told when it is read
            return 0.0


STAGES = (
    Stage("pictures", "pictures:draw_pictures", alone=True),
    Stage("autoencoder", "autoencoder:train_autoencoder", ("pictures",), ("vae",)),
    Stage("clip", "clip:train_clip", ("pictures",), ("tokenizer", "text_encoder", "image_encoder")),
    Stage("recogniser", "recogniser:train_recogniser", ("pictures",), ("recogniser.onnx",)),
    Stage("teacher", "recogniser:train_teacher", ("pictures",), ("teacher.onnx",)),
    Stage("judge", "recogniser:train_judge", ("pictures",), ("judge.onnx",)),
    Stage("scene_reader", "scene_reader:train_scene_reader", ("pictures",), ("scene_reader.onnx",)),
    Stage("parser", "parser:train_parser", ("pictures",), ("parser.onnx",)),
    Stage("decoder", "autoencoder:train_decoder", ("autoencoder",), ("vae",)),
    Stage(
        "latent_reader",
        "latent_reader:train_latent_reader",
        ("pictures", "autoencoder", "decoder"),
        ("latent_reader.onnx",),
    ),
    Stage("unet", "unet:train_unet", ("autoencoder", "decoder", "clip", "latent_reader"), ("base",)),
    Stage(
        "adapter",
        "adapter:train_adapter",
        ("unet", "clip", "recogniser", "teacher", "parser", "latent_reader"),
        ("adapter/model.safetensors", "adapter/preset.yaml"),
    ),
    Stage("package", "package:package", ("adapter", "judge", "scene_reader", "decoder"), ("drawn",), alone=True),
)
"""All, in an order in which each finds what it needs."""

BY_NAME: Mapping[str, Stage] = {stage.name: stage for stage in STAGES}


def run_stage(stage: Stage, recipe: Recipe, out: Path, device: torch.device) -> bool:
    """Do a stage, or what is left of it; return whether there was anything to do.

    Raises:
        InputError: the folder holds one of another recipe, or another process is at it.
    """
    processes = PartialState(cpu=device.type == "cpu")
    folder = stage_folder(out, stage.name)
    with ExitStack() as stack:
        if processes.is_main_process:
            stack.enter_context(claimed(folder, stage.name, _about(stage, recipe), note=NOTE))
        todo = [not ((folder / DONE).exists() and all((out / name).exists() for name in stage.makes))]
        if processes.num_processes > 1:
            broadcast_object_list(todo)
        if not todo[0]:
            return False
        before, began = stage.spent(out), time.monotonic()
        if processes.is_main_process or not stage.alone:
            stage.run(recipe, out, device)
        if processes.is_main_process:
            took = {"seconds": round(before + time.monotonic() - began, 1), "processes": processes.num_processes}
            write_whole(folder / DONE, json.dumps(took) + "\n", durable=True)
        processes.wait_for_everyone()
    return True


def times(out: Path) -> dict[str, dict[str, Any]]:
    """Of each stage that is done in a folder: "seconds" that it took, in how many "processes"."""
    notes = {stage.name: stage_folder(out, stage.name) / DONE for stage in STAGES}
    return {name: json.loads(note.read_text()) for name, note in notes.items() if note.exists()}


def _about(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """What of the recipe its result depends on, flat; of the stages that it needs, the digest of that."""
    content = {
        name: recipe.content.get(name) for name in ("size", "pictures", "groups", stage.name) if name in recipe.content
    }
    about = dict(_flat(plain(content)))
    for name in stage.needs:
        needed = json.dumps(_about(BY_NAME[name], recipe), sort_keys=True, default=str)
        about[f"its {name}"] = hashlib.sha256(needed.encode()).hexdigest()[:12]
    return about


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
