"""A tiny training for the tests of the loop; as a program, one that is slow enough to be killed in its middle.

python counting.py OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from consistentid.training.drawn.loop import Losses, train
from consistentid.training.schedule import Schedule

SCHEDULE = Schedule(steps=60, batch=4, lr=0.05, warmup=5, ema=0.9, seed=7)
ROWS = 10


def model() -> nn.Module:
    torch.manual_seed(SCHEDULE.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def run(out: Path, network: nn.Module, pause: float = 0.0, seen: list[NDArray[np.int64]] | None = None) -> nn.Module:
    """Learn noisy sums, with a checkpoint after every step."""
    data = torch.linspace(-1, 1, 3 * ROWS).view(ROWS, 3)

    def loss(rows: NDArray[np.int64], generator: torch.Generator) -> Losses:
        time.sleep(pause)
        if seen is not None:
            seen.append(rows)
        x = data[torch.from_numpy(rows)]
        x = x + 0.1 * torch.randn(x.shape, generator=generator)
        return {"loss": (network(x)[:, 0] - x.sum(1)).square().mean()}

    train("sums", network, loss, SCHEDULE, ROWS, out, device=torch.device("cpu"), checkpoint_seconds=0)
    return network


if __name__ == "__main__":
    run(Path(sys.argv[1]), model(), pause=0.05)
