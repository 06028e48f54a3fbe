"""The delayed merge: plain text in the first steps, fused text from then on (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from consistentid.errors import InputError, PipelineError

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""A pipeline's `callback_on_step_end`: (pipe, step, timestep, tensors) -> tensors to replace."""


@dataclass(frozen=True)
class Swap:
    """Rows of text that change at one point of the sampling.

    Attributes:
        at: fraction of the steps; at the end of step ``round(at * steps)`` the rows change.
        text: (before, after), each (B, T, D), one row a prompt.
        pooled: the same of the pooled text, (B, E), SDXL only.
    """

    at: float
    text: tuple[Tensor, Tensor]
    pooled: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class DelayedMerge:
    """A pipeline's `callback_on_step_end` that swaps rows of text.

    Pipelines order and repeat the rows of a batch in their own ways (guidance, perturbed guidance, frames, images per
    prompt), so the rows to swap are those equal to the text before; the pooled text's rows go with them.

    Attributes:
        swaps: in their order.
        callback: the user's own, called afterwards with the tensors it asks for.
        keeps: what must live as long as this does.
        check: called in the first step; raises when the adapter is not as `inputs` left it.
        restore: called when sampling ends; a callback's changes of the adapter count for its own call alone.
    """

    swaps: tuple[Swap, ...]
    callback: Callback | None = None
    keeps: object = None
    check: Callable[[], None] | None = None
    restore: Callable[[], None] | None = None

    @classmethod
    def of(
        cls, swaps: Sequence[Swap], negative: Tensor | None, callback: Callback | None, keeps: object = None
    ) -> Self:
        """Keeps those of the swaps that will change something.

        Args:
            swaps: each going on from where the one before it ends.
            negative: (B, T, D) the negative text, under guidance.
            callback: the user's own.
            keeps: what must live as long as this does.

        Raises:
            InputError: a prompt's text equals the negative one, so that its rows could not be told apart.
        """
        kept = []
        for swap in swaps:
            before, after = swap.text
            if not 0 < swap.at < 1 or torch.equal(before, after):
                continue
            if negative is not None and any(torch.equal(one, other) for one in before for other in negative):
                raise InputError(
                    "prompt and negative_prompt are the same text, so the merge cannot tell them apart; change one of"
                    " them, or use merge_at=0 or merge_at=1"
                )
            pooled = swap.pooled and (swap.pooled[0].clone(), swap.pooled[1].clone())
            # copies: the pipeline may write into what it was given
            kept.append(Swap(swap.at, (before.clone(), after.clone()), pooled))
        return cls(tuple(kept), callback, keeps)

    @property
    def tensor_inputs(self) -> list[str]:
        """Names for `callback_on_step_end_tensor_inputs`."""
        return list(dict.fromkeys([*self._own, *self._wanted]))

    @property
    def _own(self) -> list[str]:
        names = ["prompt_embeds"] if self.swaps else []
        return [*names, "add_text_embeds"] if any(swap.pooled for swap in self.swaps) else names

    @property
    def _wanted(self) -> list[str]:
        return list(getattr(self.callback, "tensor_inputs", ["latents"])) if self.callback else []

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The pipeline's call at the end of each step."""
        steps = pipe.num_timesteps
        last = step == steps - 1
        if step == 0 and self.check:
            self.check()
        text, pooled = tensors.get("prompt_embeds"), tensors.get("add_text_embeds")
        for swap in self.swaps:
            if step == round(swap.at * steps):
                _swap_rows(text, pooled, swap.text, swap.pooled)
        if last and getattr(pipe, "free_init_enabled", False):
            for swap in reversed(self.swaps):  # FreeInit runs all steps again, from the plain text
                if round(swap.at * steps) <= step:
                    _swap_rows(text, pooled, swap.text[::-1], swap.pooled and swap.pooled[::-1])
        result = {name: tensors[name] for name in self._own}
        if self.callback:
            result |= self.callback(pipe, step, timestep, {name: tensors[name] for name in self._wanted}) or {}
        if self.restore and (last or getattr(pipe, "interrupt", False)):
            self.restore()
        return result


def _swap_rows(
    text: Any, pooled: Any, change: tuple[Tensor, Tensor], pooled_change: tuple[Tensor, Tensor] | None
) -> None:
    """Replaces rows in place: not every pipeline looks at what a callback returns."""
    before, after = change[0].to(text), change[1].to(text)
    # text of another length broadcasts at best
    hits = [(text == one).flatten(1).all(dim=1) for one in before] if text.shape[1:] == before.shape[1:] else []
    if not any(hit.any() for hit in hits):
        raise PipelineError(
            f"none of the {len(text)} rows of prompt_embeds is the text that inputs() gave: pass everything inputs()"
            " returns to the pipeline's call, and change the text before that"
        )
    for row, hit in enumerate(hits):
        text[hit] = after[row]
        if pooled_change:
            pooled[hit[:: len(hit) // len(pooled)]] = pooled_change[1][row].to(pooled)  # once for all frames
