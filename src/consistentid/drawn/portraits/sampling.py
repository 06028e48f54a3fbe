"""Tables of traits sampled from counter-based random numbers, so that any row can be made again alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Numbers = NDArray[np.floating[Any]]
SPLITS = {"train": 0, "validation": 1, "test": 2}


def generator(split: str, seed: int, kind: int, person: int, scene: int) -> np.random.Generator:
    """Of a person's scene; another ``kind`` for each thing that is left to it."""
    return np.random.Generator(np.random.Philox(key=(SPLITS[split] + 16 * seed + kind, person | scene << 32)))


@dataclass(frozen=True)
class Table:
    """A table: every field is an array whose first axis is the row."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, rows: slice | Sequence[int] | Array) -> Self:
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concatenate(cls, tables: Sequence[Self]) -> Self:
        """Stack tables row-wise."""
        return cls(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)})


class Columns:
    """A (rows, n) table of uniform numbers, consumed column by column.

    Each trait takes the next column(s), so the value of a row depends on its key and on the order of the traits only.
    """

    def __init__(self, keys: Sequence[tuple[int, int]], n: int = 96) -> None:
        self.table = np.stack([np.random.Generator(np.random.Philox(key=k)).random(n) for k in keys])
        self.column = -1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
        """Uniform in [low, high)."""
        self.column += 1
        return (low + (high - low) * self.table[:, self.column]).astype(np.float32)

    def bell(self, low: float, high: float) -> NDArray[np.float32]:
        """Bell-shaped in [low, high): the mean of two uniform numbers."""
        return ((self.uniform(low, high) + self.uniform(low, high)) / 2).astype(np.float32)

    def chance(self, p: float | Numbers) -> NDArray[np.bool_]:
        """True with probability p."""
        return np.asarray(self.uniform() < p)

    def choice(self, weights: Sequence[float] | Sequence[Sequence[float]] | Numbers) -> NDArray[np.int64]:
        """Index drawn with the given weights, (k,) or one row of weights for each row (rows, k)."""
        w = np.atleast_2d(np.asarray(weights, np.float64))
        cumulative = np.cumsum(w / w.sum(-1, keepdims=True), -1)
        index = (self.uniform()[:, None] >= cumulative).sum(-1)
        chosen: NDArray[np.int64] = np.minimum(index, w.shape[-1] - 1)
        return chosen
