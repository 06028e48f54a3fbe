"""Guidance in the first steps only: the others cost half without it, and pictures are better.

Guidance decides what is in a picture, and with little noise left it has nothing to decide (Kynkäänniemi et al.,
arXiv 2404.07724). Diffusers' guiders know this as ``stop``; its pipelines choose their rows once a call, so it is done
at the UNet, which they call with the rows without the prompt before those with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from consistentid.adapter.encoding import is_guided
from consistentid.presets.settings import Settings


class GuidedSteps:
    """Which steps of a call are guided; told of each that is done.

    Args:
        pipe: its ``num_timesteps`` are those of the call under way.
        stop: fraction of the steps after which guidance stops.
    """

    def __init__(self, pipe: Any, stop: float) -> None:
        self._pipe, self._stop = pipe, stop
        self._done = 0

    def after_step(self, step: int) -> None:
        """The step of this number is done."""
        self._done = step + 1

    @property
    def _over(self) -> bool:
        return self._done >= round(self._stop * int(self._pipe.num_timesteps))

    def halve(self, _unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """A UNet's forward pre-hook: where guidance is over, only the rows with the prompt go in."""
        if not self._over:
            return None
        count = len(kwargs["sample"] if "sample" in kwargs else args[0])
        return _second_half(args, count), _second_half(kwargs, count)

    def double(self, _unet: Any, _args: Any, output: Any) -> Any:
        """Its forward hook: they stand for the others, too, so that guidance has nothing to add."""
        if not self._over:
            return None
        if isinstance(output, tuple):
            return (torch.cat([output[0]] * 2), *output[1:])
        output.sample = torch.cat([output.sample] * 2)
        return output


@contextmanager
def guided_steps(pipe: Any, settings: Settings) -> Iterator[GuidedSteps]:
    """Within the block a pipeline's call is guided as long as the settings say."""
    steps = GuidedSteps(pipe, settings.guidance_stop)
    handles = []
    if settings.guidance_stop < 1 and is_guided(pipe, settings.guidance_scale):
        # before whatever looks at the rows
        handles.append(pipe.unet.register_forward_pre_hook(steps.halve, prepend=True, with_kwargs=True))
        handles.append(pipe.unet.register_forward_hook(steps.double))
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def _second_half(value: Any, count: int) -> Any:
    """Of whatever has so many rows the second half; all else as it is."""
    if isinstance(value, Tensor):
        return value[count // 2 :] if value.ndim and len(value) == count else value
    if isinstance(value, dict):
        return {name: _second_half(x, count) for name, x in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_second_half(x, count) for x in value)
    return value
