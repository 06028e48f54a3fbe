"""The delayed merge: plain text in the first steps, fused text from then on (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from consistentid.errors import InputError, PipelineError

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""A pipeline's `callback_on_step_end`: (pipe, step, timestep, tensors) -> tensors to replace."""


@dataclass(frozen=True)
class DelayedMerge:
    """A pipeline's `callback_on_step_end` that swaps text rows at the end of step ``round(merge_at * steps)``.

    Pipelines order and repeat the rows of a batch in their own ways (guidance, perturbed guidance, frames, images per
    prompt), so the rows to swap are those equal to the plain text.

    Attributes:
        swaps: tensor's name in the pipeline -> (before, after), each (B, ...), one row a prompt.
        merge_at: fraction of the steps.
        callback: the user's own, called afterwards with the tensors it asks for.
    """

    swaps: Mapping[str, tuple[Tensor, Tensor]]
    merge_at: float
    callback: Callback | None = None

    @classmethod
    def of(
        cls,
        rows: Mapping[str, tuple[Tensor | None, Tensor | None, Tensor | None]],
        merge_at: float,
        callback: Callback | None,
    ) -> Self:
        """Keeps of `rows`, name -> (before, after, negative), those that the merge will change.

        Raises:
            InputError: a prompt's text equals the negative one, so that its rows could not be told apart.
        """
        swaps = {}
        for name, (before, after, negative) in rows.items():
            if before is None or after is None or not 0 < merge_at < 1 or torch.equal(before, after):
                continue
            if negative is not None and any(torch.equal(one, other) for one in before for other in negative):
                raise InputError(
                    "prompt and negative_prompt are the same text, so the merge cannot tell them apart; change one of"
                    " them, or use merge_at=0 or merge_at=1"
                )
            swaps[name] = (before.clone(), after.clone())  # the pipeline may write into what it was given
        return cls(swaps, merge_at, callback)

    @property
    def tensor_inputs(self) -> list[str]:
        """Names for `callback_on_step_end_tensor_inputs`."""
        return list(dict.fromkeys([*self.swaps, *self._wanted]))

    @property
    def _wanted(self) -> list[str]:
        return list(getattr(self.callback, "tensor_inputs", ["latents"])) if self.callback else []

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's call at the end of each step."""
        steps = pipe.num_timesteps
        result = {}
        for name, (before, after) in self.swaps.items():
            if step == round(self.merge_at * steps):
                _swap_rows(name, tensors[name], before, after)
            elif step == steps - 1 and getattr(pipe, "free_init_enabled", False):
                _swap_rows(name, tensors[name], after, before)  # FreeInit runs all steps again, from the plain text
            result[name] = tensors[name]
        if self.callback:
            result |= self.callback(pipe, step, timestep, {name: tensors[name] for name in self._wanted}) or {}
        return result


def _swap_rows(name: str, rows: Tensor, before: Tensor, after: Tensor) -> None:
    """Replaces rows in place: not every pipeline looks at what a callback returns."""
    before, after = before.to(rows), after.to(rows)
    hits = [(rows == one).flatten(1).all(dim=1) for one in before]
    if not torch.stack(hits).any():
        raise PipelineError(
            f"none of the {len(rows)} rows of {name} is the text that inputs() gave: pass everything inputs() returns"
            " to the pipeline's call, and change the text before that"
        )
    for hit, new in zip(hits, after, strict=True):
        rows[hit] = new
