"""Perceiver resampler: a few query tokens read a long sequence of image features."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Attention(nn.Module):
    """Queries attend over the context and over themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, context: Tensor, queries: Tensor) -> Tensor:
        context, queries = self.norm1(context), self.norm2(queries)
        q = self.to_q(queries)
        k, v = self.to_kv(torch.cat([context, queries], dim=1)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.to_out(out.transpose(1, 2).flatten(2)))


def _feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(), nn.Linear(4 * dim, dim, bias=False)
    )


class Perceiver(nn.Module):
    """Resamples image features (B, L, context_dim) into (B, Q, out_dim).

    The queries are given to `forward` as (B, Q, dim), or learned when `learned_queries` > 0.
    Parameter names are those of the released checkpoints, so that loading needs no table of layers.
    """

    def __init__(
        self,
        context_dim: int,
        out_dim: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        learned_queries: int = 0,
    ) -> None:
        super().__init__()
        if learned_queries:
            self.latents = nn.Parameter(torch.randn(1, learned_queries, dim) * dim**-0.5)
        self.proj_in = nn.Linear(context_dim, dim)
        self.proj_out = nn.Linear(dim, out_dim)
        self.norm_out = nn.LayerNorm(out_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Attention(dim, heads, dim_head), _feed_forward(dim)]) for _ in range(depth)
        )

    def forward(self, context: Tensor, queries: Tensor | None = None) -> Tensor:
        """Resampled features (B, Q, out_dim) of `context` (B, L, context_dim)."""
        context = self.proj_in(context)
        x = self.latents.expand(len(context), -1, -1) if queries is None else queries
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            x = x + attention(context, x)
            x = x + feed_forward(x)
        return cast(Tensor, self.norm_out(self.proj_out(x)))
