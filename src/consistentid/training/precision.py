"""In which numbers a training computes: float32, or bfloat16 where this processor is quicker at that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.benchmark import Timer, timer

PRECISIONS = ("auto", "float32", "bfloat16")
WORTHWHILE = 1.2
"""From which speed-up of matrix products bfloat16 is taken: below, rounding is not paid for."""

_SIDE = 512
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def bfloat16_speedup(device: torch.device) -> float:
    """How many times faster this device multiplies matrices in bfloat16 than in float32.

    Processors without instructions for it are a hundred times slower at it, those that have them three times faster.
    """
    seconds = {}
    for name, dtype in _DTYPES.items():
        x = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
        # On a busy machine the time that passes says how busy it is; what the processor spends on it does not.
        clock = time.process_time if device.type == "cpu" else timer
        product = Timer("x @ x", globals={"x": x}, num_threads=torch.get_num_threads(), timer=clock)
        product.timeit(1)  # the first one chooses its kernel
        seconds[name] = product.blocked_autorange(min_run_time=0.1).median
    return seconds["float32"] / seconds["bfloat16"]


def resolve_precision(
    precision: str, device: torch.device, *, before: str | None = None, say: Callable[[str], None] = print
) -> str:
    """What a training computes in, "float32" or "bfloat16"; the same in all its processes.

    Args:
        precision: one of `PRECISIONS`; "auto" measures.
        device: where it computes.
        before: what an interrupted run computed in. It stays so, that it ends as it would have, unless this machine is
            slower at it than at the other.
        say: told what was measured and chosen.
    """
    if precision != "auto":
        return precision
    processes = PartialState()
    chosen = [before or ""]
    if processes.is_main_process:
        speedup = bfloat16_speedup(device)
        chosen = ["bfloat16" if speedup >= (1.0 if before == "bfloat16" else WORTHWHILE) else "float32"]
        if before == "float32":
            chosen = [before]
        say(f"precision {chosen[0]}: bfloat16 matrix products are {speedup:.2g} times as fast as float32 here")
    if processes.num_processes > 1:
        broadcast_object_list(chosen)
    return chosen[0]


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Within the block networks compute in that precision; their weights stay float32."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def laid_out(module: nn.Module, precision: str) -> nn.Module:
    """The module with its weights in the order in which that precision is quickest: channels last for bfloat16."""
    order = torch.channels_last if precision == "bfloat16" else torch.contiguous_format
    module.to(memory_format=order)  # type: ignore[call-overload]
    return module
