"""A recipe of the adapter at micro size: the tiny preset, nine drawings of 32 pixels, a few steps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

import tiny
from consistentid.training import checkpoints
from consistentid.training.config import TrainConfig
from consistentid.training.trainer import Trainer

SPEC = {
    "dim_head": 8, "id_hidden": 32, "id_depth": 1, "id_heads": 4, "facial_dim": 32, "facial_depth": 1,
    "facial_heads": 4, "lora_rank": 4,
}  # fmt: skip


def content(**adapter: Any) -> dict[str, Any]:
    """The recipe, with other options in its section ``adapter``."""
    schedule = {"steps": 4, "batch": 4, "lr": 1e-2, "warmup": 1, "seed": 5, **adapter.pop("schedule", {})}
    section = {"preset": str(tiny.preset()), "schedule": schedule, "spec": SPEC, "log": {"every": 1}}
    return {"size": 32, "pictures": {"train": {"people": 3, "scenes": 3}}, "adapter": section | adapter}


def recipe(folder: Path, **adapter: Any) -> Path:
    """The same as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "micro.yaml"
    written = folder / f"{os.getpid()}.yaml"
    written.write_text(yaml.safe_dump(content(**adapter)))
    return written.replace(path)  # whole at any moment: several processes of a test write and read it at once


def trainer(run: Path, cache: Path, /, *, sharded: bool = False, **adapter: Any) -> Trainer:
    """A trainer of that recipe; sharded as accelerate would do it with several GPUs, which runs on CPUs as well."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it is one a process, and keeps the first run's precision
    if sharded:
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        os.environ |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
        os.environ |= {"FSDP_TRANSFORMER_CLS_TO_WRAP": "BasicTransformerBlock"}
        Accelerator(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()
    config = TrainConfig.from_yaml(recipe(run.parent / f"{run.name}-recipe", **adapter))
    return Trainer(config, run, cache=cache, device="cpu", say=lambda _: None)


def learnt(run: Path, cache: Path, /, **adapter: Any) -> dict[str, Tensor]:
    """The state after a whole run of that recipe."""
    assert trainer(run, cache, **adapter).train()
    newest = checkpoints.newest(run)
    assert newest is not None
    return load_file(newest / checkpoints.STATE)


def logged(run: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
