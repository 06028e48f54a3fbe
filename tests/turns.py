"""Products of cases, of which the quick tests take as many as show every value once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def by_turns(*axes: Sequence[Any]) -> list[Any]:
    """All combinations for `pytest.mark.parametrize`; those are slow whose values were in another one before."""
    longest = max(map(len, axes))
    quick = {tuple(turn % len(axis) for axis in axes) for turn in range(longest)}
    return [
        pytest.param(*(axis[index] for axis, index in zip(axes, places, strict=True)),
                     marks=[] if places in quick else [pytest.mark.slow])
        for places in product(*(range(len(axis)) for axis in axes))
    ]  # fmt: skip
