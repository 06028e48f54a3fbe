"""How long and how fast a network learns, and which samples each of its steps sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from consistentid.files.config import Between, check

Share = Annotated[float, Between(0, 1)]
"""A share or a probability."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        steps: optimiser steps.
        batch: samples of a step.
        lr: learning rate after the warm-up.
        warmup: steps of linear warm-up, after which the rate falls like a cosine.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: decay of the average of the weights; 0 for none.
        seed: of all randomness.
        final_lr: share of the learning rate that is left at the end.
    """

    steps: Annotated[int, Between(1)]
    batch: Annotated[int, Between(1)]
    lr: Annotated[float, Between(0, open=True)]
    warmup: Annotated[int, Between(0)] = 100
    weight_decay: Annotated[float, Between(0)] = 0.01
    clip: Annotated[float, Between(0, open=True)] = 1.0
    ema: Annotated[float, Between(0, 0.999999)] = 0.0
    seed: Annotated[int, Between(0, 2**32)] = 0
    final_lr: Share = 0.02

    def __post_init__(self) -> None:
        check(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then cosine."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


Order = Callable[[int], NDArray[np.int64]]
"""The samples of an epoch, by its number: every index once."""


def shuffled(count: int, seed: int) -> Order:
    """Epochs of ``count`` samples in an order that depends on the seed and the epoch alone."""
    return lru_cache(maxsize=2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(count))


def batch_indices(order: Order, batch: int, step: int) -> NDArray[np.int64]:
    """Samples (batch,) of a step: epochs laid end to end. A pure function of the step, so resuming is exact."""
    count = len(order(0))
    out: list[int] = []
    position = step * batch
    while len(out) < batch:
        epoch, offset = divmod(position, count)
        take = order(epoch)[offset : offset + batch - len(out)]
        out.extend(take.tolist())
        position += len(take)
    return np.array(out)


def batched(count: int, size: int) -> Iterator[slice]:
    """Slices that cover range(count)."""
    for i in range(0, count, size):
        yield slice(i, min(i + size, count))
