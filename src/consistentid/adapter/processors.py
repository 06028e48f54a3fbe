"""Cross-attention with ID tokens: diffusers' own, and of a long text each position sees its own texts and people.

For such a text one query is made of the picture, and each text, and each person's ID tokens, are looked at only from
the positions where they have a weight; what the looks bring is added up by these weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from consistentid.adapter.long_text import Reading, Weights
from consistentid.errors import PipelineError


@cache
def regional(kind: Any) -> Any:
    """A class of diffusers' IP-Adapter processors, extended: its `reader` says how to read the text."""

    def call(
        self: Any,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
        ip_adapter_masks: Any = None,
    ) -> Tensor:
        reading = self.reader.reading
        if reading is None:
            result: Tensor = kind.__call__(
                self, attn, hidden_states, encoder_hidden_states, attention_mask, temb, scale, ip_adapter_masks
            )
            return result
        if attention_mask is not None or ip_adapter_masks is not None:
            raise PipelineError(
                "encoder_attention_mask and ip_adapter_masks do not go together with several people; give regions to"
                " inputs() instead"
            )
        return _attend(self, attn, hidden_states, encoder_hidden_states[0], reading)

    return type(f"Regional{kind.__name__}", (kind,), {"__call__": call})


def _attend(processor: Any, attn: Any, hidden_states: Tensor, rows: Tensor, reading: Reading) -> Tensor:
    layout = reading.text
    texts, people = layout.weights(*reading.layer_size(hidden_states.shape[1]), hidden_states)
    query = attn.to_q(hidden_states)
    spans = rows[:, : layout.spans * layout.context]
    if attn.norm_cross:
        spans = attn.norm_encoder_hidden_states(spans)
    key, value = attn.to_k(spans), attn.to_v(spans)
    result = torch.zeros_like(query)
    for index, weights in enumerate(texts):
        if weights:
            span = slice(index * layout.context, (index + 1) * layout.context)
            result = _add(result, attn.heads, query, key[:, span], value[:, span], weights)

    strengths = processor.scale[0]
    strengths = strengths if isinstance(strengths, list) else [strengths] * layout.people
    if any(strengths):
        tokens = layout.tokens(rows)
        key, value = processor.to_k_ip[0](tokens), processor.to_v_ip[0](tokens)
        # frames of a video share a row
        scales = reading.scales.repeat_interleave(len(query) // len(reading.scales), dim=0)
        for index, (weights, strength) in enumerate(zip(people, strengths, strict=True)):
            if weights and strength:
                span = slice(index * layout.id_tokens, (index + 1) * layout.id_tokens)
                scale = strength * scales[:, index, None, None]
                result = _add(result, attn.heads, query, key[:, span], value[:, span], weights, scale)

    result = attn.to_out[1](attn.to_out[0](result))
    if attn.residual_connection:
        result = result + hidden_states
    rescaled: Tensor = result / attn.rescale_output_factor
    return rescaled


def _add(
    result: Tensor,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Weights,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """Result (R, N, C) and what the positions with a weight see in keys and values (R, T, C)."""
    query = query if weights.where is None else query[:, weights.where]
    query, key, value = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
    seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    seen = seen * (weights.weight * scale).to(seen)
    return result + seen if weights.where is None else result.index_add(1, weights.where, seen)
