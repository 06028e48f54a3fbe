"""Overall identity: a face embedding and the whole face's image features become a few ID tokens."""

from __future__ import annotations

from torch import Tensor, nn

from consistentid.adapter.nn.perceiver import Perceiver


class ImageProjection(nn.Module):
    """ID tokens for the decoupled cross-attention (paper, section 3.3 "overall ID information").

    Args:
        id_dim: width of the face embedding.
        clip_dim: width of the image encoder's hidden states.
        text_dim: width D of the UNet's cross-attention.
        tokens: number of ID tokens.
        hidden: width of the projection's hidden layer, twice `id_dim` if not given.
        depth, heads, dim_head: sizes of the perceiver; `heads` is `text_dim // dim_head` if not given.
        shortcut: add the unresampled tokens to the resampled ones (the released SDXL weights do).
        resampled_scale: factor of the resampled tokens under `shortcut`.
    """

    def __init__(
        self,
        id_dim: int,
        clip_dim: int,
        text_dim: int,
        tokens: int = 4,
        *,
        hidden: int | None = None,
        depth: int = 4,
        heads: int | None = None,
        dim_head: int = 64,
        shortcut: bool = False,
        resampled_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.shortcut = shortcut
        self.resampled_scale = resampled_scale
        hidden = hidden or 2 * id_dim
        self.proj = nn.Sequential(nn.Linear(id_dim, hidden), nn.GELU(), nn.Linear(hidden, tokens * text_dim))
        self.norm = nn.LayerNorm(text_dim)
        self.perceiver_resampler = Perceiver(
            clip_dim,
            text_dim,
            dim=text_dim,
            depth=depth,
            heads=heads or max(1, text_dim // dim_head),
            dim_head=dim_head,
        )

    def forward(self, id: Tensor, clip: Tensor) -> Tensor:
        """ID tokens (B, tokens, D) of face embeddings and image features.

        Args:
            id: unit-length embeddings (B, id_dim).
            clip: penultimate hidden states (B, L, clip_dim) of the image encoder for the whole reference.

        A zero embedding with the features of an all-zero image gives the unconditional tokens.
        """
        tokens: Tensor = self.norm(self.proj(id).unflatten(-1, (self.tokens, -1)))
        resampled: Tensor = self.perceiver_resampler(clip, tokens)
        return tokens + self.resampled_scale * resampled if self.shortcut else resampled
