"""The training loop that all networks of the stack share: schedule, EMA, checkpoints, resuming."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0  # decay of the average of the weights; 0 for none
    seed: int = 0
    final_lr: float = 0.02  # share of lr left at the end of the cosine

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def batch_indices(count: int, batch: int, step: int, seed: int) -> NDArray[np.int64]:
    """Rows of a step: epochs of seeded permutations, laid end to end. A pure function, so resuming is exact."""
    out: list[int] = []
    position = step * batch
    while len(out) < batch:
        epoch, offset = divmod(position, count)
        take = _permutation(count, seed, epoch)[offset : offset + batch - len(out)]
        out.extend(take.tolist())
        position += len(take)
    return np.array(out)


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def save_atomically(write: Callable[[Path], Any], path: Path) -> None:
    """Call ``write`` with a temporary name beside ``path``, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    write(temporary)
    temporary.replace(path)


def train(
    name: str,
    model: nn.Module,
    loss: Callable[[NDArray[np.int64], torch.Generator], Losses],
    schedule: Schedule,
    count: int,
    out: Path,
    *,
    device: torch.device,
    report: Callable[[], dict[str, float]] | None = None,
    checkpoint_seconds: float = 60.0,
) -> None:
    """Train ``model`` in place until ``schedule.steps``; on return it holds the averaged weights where EMA is on.

    ``loss(rows, generator)`` gives named losses, of which ``loss`` is minimised. All randomness of a step comes from
    its generator, seeded by the step, so a run that was interrupted equals one that was not.
    """
    state_path, log_path = out / f"{name}.state.pt", out / f"{name}.jsonl"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
    )
    ema = EMAModel(model.parameters(), decay=schedule.ema, use_ema_warmup=True, power=0.75) if schedule.ema else None
    start = 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema:
            ema.load_state_dict(state["ema"])
        start = state["step"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if ema:
            state["ema"] = ema.state_dict()
        save_atomically(lambda p: torch.save(state, p), state_path)

    out.mkdir(parents=True, exist_ok=True)
    model.train()
    saved = began = time.monotonic()
    smooth: dict[str, float] = {}
    for step in range(start, schedule.steps):
        generator = torch.Generator(device).manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = loss(batch_indices(count, schedule.batch, step, schedule.seed), generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["loss"])
        norm = nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        if torch.isfinite(norm):
            optimizer.step()
            if ema:
                ema.step(model.parameters())
        for key, value in losses.items():
            smooth[key] = 0.98 * smooth.get(key, value.item()) + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            row = {"step": step + 1, "seconds": round(time.monotonic() - began, 1)}
            row |= {k: round(v, 5) for k, v in smooth.items()}
            print(json.dumps({"network": name} | row), flush=True)
            with log_path.open("a") as log:
                log.write(json.dumps(row) + "\n")
        if time.monotonic() - saved > checkpoint_seconds:
            save(step + 1)
            saved = time.monotonic()
    if start < schedule.steps:
        save(schedule.steps)
    if ema:
        ema.copy_to(model.parameters())
    model.eval()
    if report:
        figures = {k: round(v, 4) for k, v in report().items()}
        print(json.dumps({"network": name, "held_out": figures}), flush=True)
        save_atomically(lambda p: p.write_text(json.dumps(figures, indent=1)), out / f"{name}.report.json")


def batched(count: int, size: int) -> Iterator[slice]:
    """Slices that cover range(count)."""
    for i in range(0, count, size):
        yield slice(i, min(i + size, count))
