"""Fine-grained identity: each facial part's picture is fused into the text token that names the part."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from consistentid.adapter.nn.perceiver import Perceiver


class _MLP(nn.Module):
    def __init__(self, in_dim: int, dim: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layernorm = nn.LayerNorm(in_dim)
        self.fc1 = nn.Linear(in_dim, dim)
        self.fc2 = nn.Linear(dim, dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(self.layernorm(x))))
        return x + y if self.residual else y


class _Fuse(nn.Module):
    """`LN(MLP2(MLP1([text; part]) + text))` on pairs of tokens (K, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp1 = _MLP(2 * dim, dim, residual=False)
        self.mlp2 = _MLP(dim, dim, residual=True)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, part: Tensor) -> Tensor:
        return cast(Tensor, self.layer_norm(self.mlp2(self.mlp1(torch.cat([text, part], dim=-1)) + text)))


class FacialEncoder(nn.Module):
    """Fuses pictures of facial parts into the words that name them (paper, section 3.2, "facial encoder").

    Args:
        clip_dim: width of the image encoder's hidden states.
        text_dim: width D of the text embedding.
        dim, depth, heads, dim_head: sizes of the perceiver that makes one token of a part's picture.
    """

    def __init__(
        self, clip_dim: int, text_dim: int, *, dim: int = 1024, depth: int = 8, heads: int = 16, dim_head: int = 64
    ) -> None:
        super().__init__()
        self.visual_projection = Perceiver(
            clip_dim, text_dim, dim=dim, depth=depth, heads=heads, dim_head=dim_head, learned_queries=1
        )
        self.fuse_module = _Fuse(text_dim)

    def forward(self, text: Tensor, parts: Tensor, token_mask: Tensor, part_mask: Tensor) -> Tensor:
        """Text embedding (B, T, D) with fused tokens where `token_mask` is true, else as given; never in place.

        Args:
            text: text embedding (B, T, D).
            parts: image features of the parts' pictures (B, N, L, clip_dim), in the order of their words in the text.
            token_mask: (B, T) bool, the words to fuse.
            part_mask: (B, N) bool, the parts to use: as many in each row as `token_mask` has words.

        Raises:
            ValueError: a row has more words than parts or the other way round.
        """
        if not torch.equal(token_mask.sum(1), part_mask.sum(1)):
            raise ValueError(
                f"each row needs as many words as parts, got {token_mask.sum(1).tolist()} words"
                f" and {part_mask.sum(1).tolist()} parts: check token_mask and part_mask"
            )
        part = self.visual_projection(parts[part_mask]).squeeze(1)
        fused = self.fuse_module(text[token_mask].to(part.dtype), part)
        return text.masked_scatter(token_mask.unsqueeze(-1), fused.to(text.dtype))
