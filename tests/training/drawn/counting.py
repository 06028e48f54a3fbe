"""A tiny training for the tests of the loop, slow enough to be killed in its middle, in one process or several."""

from __future__ import annotations

import os
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import nn

from consistentid.files.devices import torch_threads
from consistentid.training.drawn.loop import Losses, Opponent, train
from consistentid.training.schedule import Schedule
from consistentid.training.stopping import Stopped

SCHEDULE = Schedule(steps=60, batch=4, lr=0.05, warmup=5, ema=0.9, seed=7)
ROWS = 10
STOPPED = 3
"""Exit code of a process that was told to stop."""

_fork = get_context("fork")


def model() -> nn.Module:
    torch.manual_seed(SCHEDULE.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def critic() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(1, 1)


def run(
    out: Path,
    network: nn.Module,
    pause: float = 0.0,
    seen: list[NDArray[np.int64]] | None = None,
    precision: str = "float32",
    against: nn.Module | None = None,
) -> nn.Module:
    """Learn noisy sums, with a checkpoint after every step; a critic learns to tell them from the truth."""
    data = torch.linspace(-1, 1, 3 * ROWS).view(ROWS, 3)
    against = against or critic()
    guessed = torch.zeros(0)

    def loss(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        nonlocal guessed
        time.sleep(pause)
        if seen is not None:
            seen.append(rows)
        x = data[torch.from_numpy(rows)]
        x = x + 0.1 * torch.randn(x.shape, generator=generator)
        found = network(x).float()
        guessed = found.detach()
        error = (found[:, 0] - x.sum(1)).square().mean()
        return {"loss": error - 0.01 * against(found).mean(), "error": error}

    def criticism(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        true = data[torch.from_numpy(rows)].sum(1, keepdim=True) + 0.1 * torch.randn(len(rows), 1, generator=generator)
        return {"loss": (1 - against(true)).relu().mean() + (1 + against(guessed)).relu().mean()}

    other = Opponent("critic", against, criticism, Schedule(steps=60, batch=4, lr=0.01, warmup=0))
    with torch_threads(1):  # as the processes below: several add in another order, on some processors
        train(
            "sums", network, loss, SCHEDULE, ROWS, out, device=torch.device("cpu"), checkpoint_seconds=0,
            precision=precision, opponents=[other],
        )  # fmt: skip
    return network


def _process(out: Path, rank: int, world: int, pause: float) -> None:
    PartialState._reset_state()
    torch.set_num_threads(1)
    if world > 1:  # as torchrun does
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    try:
        run(out, model(), pause)
    except Stopped:
        os._exit(STOPPED)
    os._exit(0)


def processes(out: Path, world: int = 1, pause: float = 0.05) -> list[BaseProcess]:
    """The training in processes of its own, begun; forked, for they need not import everything once more."""
    started = [_fork.Process(target=_process, args=(out, rank, world, pause)) for rank in range(world)]
    for each in started:
        each.start()
    return list(started)
