"""The training loop that all networks of the stack share: schedule, EMA, checkpoints, resuming."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn

from consistentid.files.output import replacing
from consistentid.training.schedule import Schedule, batch_indices, shuffled

Losses = dict[str, Tensor]


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
        with replacing(state_path) as path:
            torch.save(state, path)

    out.mkdir(parents=True, exist_ok=True)
    model.train()
    saved = began = time.monotonic()
    smooth: dict[str, float] = {}
    order = shuffled(count, schedule.seed)
    for step in range(start, schedule.steps):
        generator = torch.Generator(device).manual_seed(schedule.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        losses = loss(batch_indices(order, schedule.batch, step), generator)
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
        with replacing(out / f"{name}.report.json") as path:
            path.write_text(json.dumps(figures, indent=1))
