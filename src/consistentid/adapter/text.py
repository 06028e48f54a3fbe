"""The texts of a call: what is read for each picture, and their embeddings with the facial words fused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from consistentid.adapter import encoding
from consistentid.adapter.long_text import Span, SpanTexts
from consistentid.adapter.people import Person
from consistentid.adapter.prompt import FacialText, check_length
from consistentid.adapter.spec import AdapterSpec
from consistentid.adapter.weights import AdapterWeights
from consistentid.errors import InputError
from consistentid.files.devices import moved

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


def negatives_of(negative_prompt: str | Sequence[str] | None, prompts: int) -> list[str] | None:
    """The negative prompt of each prompt, if there are any.

    Raises:
        InputError: neither one, nor as many as prompts.
    """
    if negative_prompt is None:
        return None
    negatives = [negative_prompt] * prompts if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(negatives) != prompts:
        raise InputError(f"{len(negatives)} negative prompts for {prompts} prompts; give one, or one for each prompt")
    return negatives


def spans_of(
    pipe: Any, spec: AdapterSpec, prompts: Sequence[str], people: Sequence[Person], *, in_regions: bool, apart: bool
) -> list[list[Span]]:
    """What is read for each prompt: with regions the prompt and then each person's text, else one text."""
    count, limit = encoding.token_counter(pipe), encoding.context_length(pipe)
    if in_regions:
        for prompt in prompts:
            check_length(prompt, count, limit)
        return [
            [Span(FacialText.of(prompt)), *(Span(x.text(prompt, spec, count, limit), x) for x in people)]
            for prompt in prompts
        ]
    if apart:
        return [[Span(x.text(prompt, spec, count, limit), x)] for prompt, x in zip(prompts, people, strict=True)]
    # words cannot say whose eyes they are, so several people are told apart by their ID tokens alone
    visible = people[0].identity.visible_parts if len(people) == 1 else ()
    return [[Span(people[0].text(prompt, spec, count, limit, visible), people[0])] for prompt in prompts]


@torch.no_grad()
def write(
    weights: AdapterWeights,
    pipe: Any,
    spans: Sequence[Sequence[Span]],
    identities: Sequence[Identity],
    negatives: Sequence[str] | None,
    guided: bool,
    regions_end: float,
) -> tuple[SpanTexts, Tensor]:
    """The embeddings of all spans, and the ID tokens of all people as `AdapterWeights.people_tokens` gives them."""
    size = len(spans), len(spans[0])
    flat = [span for row in spans for span in row]
    texts = [span.text for span in flat]
    if negatives is not None:
        negatives = [negative for negative in negatives for _ in range(size[1])]
    plain = encoding.encode(pipe, [x.plain for x in texts], negatives=negatives, guided=guided)
    full = plain
    if any(x.full != x.plain or x.marked != x.full for x in texts):
        full = encoding.encode(pipe, [x.full for x in texts], seconds=[x.marked for x in texts])
    negative = plain.negative
    # a span of nobody has no words to fuse
    features = [(span.person.identity if span.person else identities[0]).part_features for span in flat]
    # the pipeline may have been moved since attach(), or keep its networks on the CPU while they are idle
    with moved(pipe._execution_device, weights.image_projection, weights.facial_encoder):
        fused = weights.fuse(full.text, *weights.arrange(texts, torch.stack(features), full.text.shape[1]))
        if any(span.person and span.person.part_scales for span in flat):
            fused = full.text.lerp(fused, _strengths(flat, fused))
        if negative is not None and weights.spec.fuse_negative:
            blank = identities[0].blank_features.expand(len(flat), *identities[0].part_features.shape)
            negative = weights.fuse(negative, *weights.arrange(texts, blank, negative.shape[1]))
        tokens = weights.people_tokens(identities, guided).to(full.text)
    written = SpanTexts(
        before=in_rows(plain.text, size),
        after=in_rows(fused, size),
        negative=None if negative is None else in_rows(negative, size),
        pooled=None
        if plain.pooled is None or full.pooled is None
        else (in_rows(plain.pooled, size), in_rows(full.pooled, size)),
        negative_pooled=None if plain.negative_pooled is None else in_rows(plain.negative_pooled, size)[:, 0],
        merge_at=[[span.person.merge_at if span.person else 1.0 for span in row] for row in spans],
        regions_end=regions_end,
    )
    return written, tokens


def _strengths(spans: Sequence[Span], text: Tensor) -> Tensor:
    """How much is fused into each token of texts (B, T, D): (B, T, 1)."""
    length = text.shape[1]
    rows = [span.person.strengths(span.text, length) if span.person else torch.ones(length) for span in spans]
    return torch.stack(rows).unsqueeze(-1).to(text)


def in_rows(flat: Tensor, size: tuple[int, int]) -> Tensor:
    """(A * B, ...) as (A, B, ...)."""
    return flat.reshape(*size, *flat.shape[1:])


def warn_if_cut(text: FacialText, limit: int) -> None:
    """Tells what is left out of a facial sentence."""
    if text.cut:
        warnings.warn(
            f"the facial sentence was cut to fit the text encoder's {limit} tokens, left out: {text.cut!r};"
            " a shorter prompt leaves more room",
            stacklevel=4,
        )
    if text.unseen:
        warnings.warn(
            f"left out of the facial sentence, because no picture shows it: {', '.join(text.unseen)}", stacklevel=4
        )
