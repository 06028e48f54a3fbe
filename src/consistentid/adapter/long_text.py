"""The long text: several texts in one row, with the ID tokens of the people in them and the number of the row's layout.

A row is ``[span 0 | span 1 | ... | ID tokens of person 1 | ... | key]``. With regions span 0 is the scene's text and
span p that of person p; a row of a single person has one span. Whatever repeats or orders rows, as pipelines do for
guidance, frames or images per prompt, each row says by its key what is in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor

from consistentid.adapter.people import Person
from consistentid.adapter.prompt import FacialText
from consistentid.adapter.regions import Regions
from consistentid.errors import PipelineError

_NUMBER_BITS, _ROW_BITS = 20, 12
KEY_WIDTH = _NUMBER_BITS + _ROW_BITS
"""Least width of a text that can hold a key."""


@dataclass(frozen=True, eq=False)
class Span:
    """One text of a row, and the person whom it describes; None = the scene."""

    text: FacialText
    person: Person | None = None


@dataclass(frozen=True, eq=False)
class SpanTexts:
    """The embeddings of B rows of S spans.

    Attributes:
        before, after: (B, S, T, D) without and with the facial texts fused.
        negative: (B, S, T, D), under guidance.
        pooled: before and after, each (B, S, E), SDXL only.
        negative_pooled: (B, E), SDXL under guidance.
        merge_at: for each row and span.
        regions_end: fraction of the steps after which all spans of a row are the scene's.
    """

    before: Tensor
    after: Tensor
    negative: Tensor | None
    pooled: tuple[Tensor, Tensor] | None
    negative_pooled: Tensor | None
    merge_at: Sequence[Sequence[float]]
    regions_end: float

    @property
    def points(self) -> list[float]:
        """Fractions of the steps at which something changes, in order."""
        found = {point for row in self.merge_at for point in row} | {self.regions_end}
        return sorted(point for point in found if 0 < point < 1)

    def at(self, point: float) -> Tensor:
        """Text (B, S, T, D) from this fraction of the steps on."""
        return self._chosen((self.before, self.after), point)

    def pooled_at(self, point: float, span: int) -> Tensor | None:
        """Pooled text (B, E) of one span from this fraction of the steps on."""
        return None if self.pooled is None else self._chosen(self.pooled, point)[:, span]

    def _chosen(self, texts: tuple[Tensor, Tensor], point: float) -> Tensor:
        merged = torch.tensor([[at < 1 and at <= point for at in row] for row in self.merge_at], device=texts[0].device)
        chosen = torch.where(merged.view(*merged.shape, *[1] * (texts[0].ndim - 2)), texts[1], texts[0])
        return chosen[:, :1].expand_as(chosen) if self.regions_end <= point else chosen


class Weights(NamedTuple):
    """Where in a layer's N positions something is looked at, and how much.

    Attributes:
        where: (M,) positions with a weight; None = all N.
        weight: (M, 1), or (N, 1).
    """

    where: Tensor | None
    weight: Tensor


@dataclass(eq=False)
class LongText:
    """What is in the rows of one call's text.

    Attributes:
        context: tokens of a span.
        id_tokens: tokens of a person.
        regions: where each of the P people is; P + 1 spans. None: one person a row, everywhere, one span.
        scales: (B, P) strength of each person's ID tokens, for each row.
        base_ratios: share of the scene's text within the region of each of the P people; none by default.
        number: of this layout among those that are alive.
    """

    context: int
    id_tokens: int
    regions: Regions | None
    scales: Tensor
    base_ratios: Sequence[float] = ()
    number: int = 0
    _weights: dict[Any, tuple[list[Weights | None], list[Weights | None]]] = field(default_factory=dict, repr=False)

    @property
    def people(self) -> int:
        """Number P of people in a row."""
        return self.scales.shape[1]

    @property
    def spans(self) -> int:
        """Number S of texts in a row."""
        return 1 if self.regions is None else 1 + self.people

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.spans * self.context + self.people * self.id_tokens + 1

    @property
    def placeless(self) -> int:
        """The span for what has no place in the picture: the text that all positions see, or else the scene's."""
        return int(self.regions is not None and self.regions.everywhere)

    def join(self, spans: Tensor, tokens: Tensor) -> Tensor:
        """Rows (B, length, D) of texts (B, S, T, D) and ID tokens (B, P, tokens, D)."""
        key = torch.stack([_key(self.number, row, spans.shape[-1]) for row in range(len(spans))]).to(spans)
        return torch.cat([spans.flatten(1, 2), tokens.to(spans).flatten(1, 2), key.unsqueeze(1)], dim=1)

    def span(self, rows: Tensor, index: int) -> Tensor:
        """One of the S texts, (R, T, D)."""
        return rows[:, index * self.context : (index + 1) * self.context]

    def tokens(self, rows: Tensor) -> Tensor:
        """The ID tokens, (R, P * tokens, D)."""
        return rows[:, self.spans * self.context : -1]

    def weights(self, height: int, width: int, like: Tensor) -> tuple[list[Weights | None], list[Weights | None]]:
        """Of the S texts and of the P people at each of height * width positions; None where there is no weight.

        Args:
            height, width: of the layer's picture.
            like: dtype and device of the result.
        """
        key = (height, width, like.device, like.dtype)
        if key not in self._weights:
            if self.regions is None:
                people = torch.ones(1, height, width)
                texts = people
            else:
                people = self.regions.weights(height, width)
                own = (1 - torch.tensor(self.base_ratios or [0.0])[:, None, None]) * people
                texts = torch.cat([1 - own.sum(dim=0, keepdim=True), own])
                texts[0][texts[0] < 1e-6] = 0  # rounding is not a place
            self._weights[key] = ([_sparse(x, like) for x in texts], [_sparse(x, like) for x in people])
        return self._weights[key]


def _sparse(weight: Tensor, like: Tensor) -> Weights | None:
    weight = weight.flatten()
    where = weight.nonzero().flatten()
    if not len(where):
        return None
    if len(where) == len(weight):
        return Weights(None, weight[:, None].to(like))
    return Weights(where.to(like.device), weight[where, None].to(like))


def _key(number: int, row: int, width: int) -> Tensor:
    """A token of the binary digits -1 and 1, exact in every dtype."""
    bits = [number >> bit & 1 for bit in range(_NUMBER_BITS)] + [row >> bit & 1 for bit in range(_ROW_BITS)]
    return torch.cat([torch.tensor(bits) * 2.0 - 1, torch.zeros(width - KEY_WIDTH)])


def check_width(width: int, rows: int) -> None:
    """Makes sure that keys fit.

    Raises:
        PipelineError: text of this width, or that many rows, cannot hold them.
    """
    if width < KEY_WIDTH or rows > 1 << _ROW_BITS:
        raise PipelineError(
            f"{rows} rows of text of width {width} cannot hold regions; at least {KEY_WIDTH} numbers a token and at"
            f" most {1 << _ROW_BITS} rows are needed"
        )


class Reading(NamedTuple):
    """What a UNet's forward pass reads.

    Attributes:
        text: the layout of its rows.
        scales: (R, P) strength of each person's ID tokens.
        height, width: of the latents.
    """

    text: LongText
    scales: Tensor
    height: int
    width: int

    def layer_size(self, positions: int) -> tuple[int, int]:
        """(height, width) of a layer of so many positions: the latents', halved as often as it takes.

        Raises:
            PipelineError: something has changed the number of positions.
        """
        height, width = self.height, self.width
        while height * width > positions:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != positions:
            raise PipelineError(
                f"a layer has {positions} positions, which latents of {self.height}x{self.width} do not come to by"
                " halving: regions do not go together with token merging and the like; switch it off"
            )
        return height, width


class Reader:
    """Finds out at each forward pass which layout its text has; the attention processors look it up here.

    Attributes:
        reading: of the forward pass under way; None = an ordinary text.
        controlnets: those that ask here for their text.
    """

    def __init__(self) -> None:
        self.reading: Reading | None = None
        self._known: WeakValueDictionary[int, LongText] = WeakValueDictionary()
        self._numbers = itertools.cycle(range(1 << _NUMBER_BITS))
        self._used = False
        self.controlnets: WeakSet[Any] = WeakSet()
        self._controlled = False

    def add(self, text: LongText) -> LongText:
        """Gives a layout its number; it is known for as long as somebody keeps it."""
        self._used = True
        text.number = next(number for number in self._numbers if number not in self._known)
        self._known[text.number] = text
        return text

    def read_unet(self, _unet: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """A UNet's forward pre-hook.

        Raises:
            PipelineError: a ControlNet read the long text without `read_controlnet`, or the layout is not known.
        """
        sample = kwargs["sample"] if "sample" in kwargs else args[0]
        rows = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        controlled, self._controlled = self._controlled, False
        self.reading = None
        if (found := self._find(rows)) is None:
            return
        if kwargs.get("down_block_additional_residuals") is not None and not controlled:
            raise PipelineError(
                "this pipeline's ControlNet read the texts of several people as one; call"
                " add_controlnet(pipe.controlnet) on the ConsistentID, or attach it to the pipeline with the ControlNet"
            )
        text, row = found
        height, width = sample.shape[-2:]
        if text.regions is not None:
            text.regions.check_shape(height, width)
        self.reading = Reading(text, text.scales.to(rows)[row], height, width)

    def read_controlnet(
        self, _controlnet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """A ControlNet's forward pre-hook: of a long text it gets the one span for what has no place."""
        rows = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        if (found := self._find(rows)) is None:
            return None
        self._controlled = True
        span = found[0].span(rows, found[0].placeless)
        if "encoder_hidden_states" in kwargs:
            return args, kwargs | {"encoder_hidden_states": span}
        return (*args[:2], span, *args[3:]), kwargs

    def _find(self, rows: Tensor) -> tuple[LongText, Tensor] | None:
        """The layout of rows, and which row of it each is."""
        if not self._used:  # reading a key makes a GPU wait, which pipelines that never had one need not
            return None
        digits = rows[:, -1, :KEY_WIDTH].detach().to("cpu", torch.float32)
        if not (digits.abs() == 1).all() or digits.shape[1] < KEY_WIDTH:
            return None
        bits = (digits > 0).long()
        numbers = bits[:, :_NUMBER_BITS] @ (1 << torch.arange(_NUMBER_BITS))
        text = self._known.get(int(numbers[0]))
        if text is None or (numbers != numbers[0]).any() or rows.shape[1] != text.length:
            raise PipelineError(
                "a text of inputs() reached the UNet without the rest of what inputs() returned with it; pass all of it"
                " to the pipeline's call, and change the text before that"
            )
        return text, (bits[:, _NUMBER_BITS:] @ (1 << torch.arange(_ROW_BITS))).to(rows.device)
