"""Which attention a network in training uses: the fused one's backward pass is slow on processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from transformers import PreTrainedModel

SHORT = 1024
"""Positions of latents up to which all weights of an attention are held at once: their number is its square."""


def plain_attention(module: nn.Module, device: torch.device) -> None:
    """On a processor, attention as two matrix products and a softmax, which differentiate 1.3-1.5 times as fast.

    With sequences as short as the drawn preset's PyTorch's fused kernel spends two fifths of a training step in its
    backward pass (`benchmarks/attention_training.py`). Elsewhere, and for UNets of more than `SHORT` positions, nothing
    changes.
    """
    if device.type == "cpu":
        _set(module, AttnProcessor(), "eager")


def fused_attention(module: nn.Module) -> None:
    """PyTorch's fused attention, as networks have it when they are loaded: what inference is quickest with."""
    _set(module, AttnProcessor2_0(), "sdpa")


def _set(module: nn.Module, processor: AttnProcessor | AttnProcessor2_0, implementation: str) -> None:
    for part in module.modules():
        if isinstance(part, UNet2DConditionModel) and _positions(part) <= SHORT:
            part.set_attn_processor(processor)
        elif isinstance(part, PreTrainedModel) and part._supports_sdpa:
            part.set_attn_implementation(implementation)


def _positions(unet: UNet2DConditionModel) -> int:
    size = unet.config.sample_size
    height, width = size if isinstance(size, Sequence) else (size, size)
    return int(height) * int(width)
