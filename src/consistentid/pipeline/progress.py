"""How far a request is: told to its callbacks, which may end it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from consistentid.adapter.prompt import FacialText
from consistentid.errors import CancelledError
from consistentid.pipeline.pixels import decoded
from consistentid.pipeline.request import Request, Step


class Watch:
    """Tells a request's callbacks how far it is, and ends it when it was cancelled."""

    def __init__(self, request: Request, count: int, pipe: Any) -> None:
        self._request, self._count, self._pipe = request, count, pipe
        self._began = time.monotonic()
        self._step = Step("encoding", 0, 0)
        self._finished = 0  # pictures of earlier batches

    def begin(self, pictures: range, texts: tuple[FacialText, ...], size: tuple[int, int]) -> None:
        """The texts of a batch are known."""
        self._finished = pictures.start
        self._tell(
            replace(self._step, stage="encoding", pictures=pictures, texts=texts, size=size, latents=None, step=-1)
        )

    def after_step(self, pipe: Any, step: int, latents: torch.Tensor) -> None:
        """A step of the batch is done."""
        each = len(self._step.pictures)
        done = self._finished * pipe.num_timesteps + (step + 1) * each
        total = self._count * pipe.num_timesteps
        left = (time.monotonic() - self._began) / done * (total - done)
        told = replace(self._step, stage="sampling", done=done, total=total, seconds_left=left, step=step)
        self._tell(replace(told, latents=latents, _decode=partial(decoded, pipe)))
        if self._request.progress:
            self._request.progress(done, total)

    def _tell(self, step: Step) -> None:
        self._step = replace(step, latents=None, _decode=None)
        report(self._request, step)


def report(request: Request, step: Step) -> None:
    """Tell a request's `on_step` how far it is.

    Raises:
        CancelledError: the request was cancelled.
    """
    if request.cancelled and request.cancelled():
        raise CancelledError(f"the request was cancelled after {step.done} of {step.total} steps")
    if request.on_step:
        request.on_step(step)
