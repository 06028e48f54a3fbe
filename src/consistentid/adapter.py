"""ConsistentID as an adapter on unmodified diffusers pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from consistentid.nn.facial_encoder import FacialEncoder
from consistentid.nn.image_projection import ImageProjection
from consistentid.spec import AdapterSpec

if TYPE_CHECKING:
    from consistentid.identity import Identity


class ConsistentID:
    """Identity conditioning for any diffusers Stable Diffusion or SDXL pipeline."""

    spec: AdapterSpec
    image_projection: ImageProjection
    facial_encoder: FacialEncoder

    def __init__(self, spec: AdapterSpec) -> None:
        """Fresh weights for training; `from_pretrained` loads trained ones."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, source: str | Path, weight_name: str | None = None) -> ConsistentID:
        """Loads a hub id, a folder or a file."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors."""
        raise NotImplementedError

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Moves image_projection and facial_encoder."""
        raise NotImplementedError

    def attach(self, pipe: Any) -> None:
        """Adds IP layers and LoRA to `pipe.unet`."""
        raise NotImplementedError

    def detach(self) -> None:
        """Restores the pipeline exactly."""
        raise NotImplementedError

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Self]:
        """`with cid.attached(pipe): ...`."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        """Strength of the ID tokens."""
        raise NotImplementedError

    @scale.setter
    def scale(self, value: float) -> None:
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: image_projection, facial_encoder and, while attached, ip_layers and lora."""
        raise NotImplementedError

    def id_tokens(self, embedding: Tensor, face_features: Tensor) -> Tensor:
        """(B, id_dim), (B, L, clip_dim) -> (B, tokens, D), differentiable."""
        raise NotImplementedError

    def fuse(self, text: Tensor, parts: Tensor, token_mask: Tensor, part_mask: Tensor) -> Tensor:
        """(B, T, D), (B, N, L, clip_dim), (B, T), (B, N) -> (B, T, D), differentiable."""
        raise NotImplementedError

    def inputs(
        self,
        identity: Identity | Sequence[Identity],
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        face_text: str | None = None,
        parts: Mapping[str, str] | None = None,
        merge_at: float = 0.6,
        guidance_scale: float = 5.0,
        callback: Callable[..., Any] | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments for the pipeline's call."""
        raise NotImplementedError
