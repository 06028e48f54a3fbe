"""diffusers' autoencoder over pixel-unshuffled pictures: every layer works at the latents' resolution.

The bases of the first release have it, and name this module; later ones have `consistentid.drawn.autoencoder`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn
from torch.nn import functional as F

# A pipeline folder that names this module finds out how to load the class by the base classes it sees here.
__all__ = ["ModelMixin", "PatchAutoencoderKL"]

PATCH = 8


class PatchAutoencoderKL(AutoencoderKL):  # type: ignore[misc]  # diffusers has no types
    """AutoencoderKL on patches of 8 x 8 pixels: pictures (B, 3, 8h, 8w) <-> latents (B, latent_channels, h, w).

    Args:
        latent_channels: channels of the latents.
        block_out_channels: one entry a level, as pipelines count them to find the scale of the latents: three halvings
            by pixel-unshuffle (3, 12, 48 channels), then the width of the network.
        layers_per_block: residual blocks at that width.
        sample_size: side of the pictures it was trained on.
        scaling_factor: one over the standard deviation of the latents.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (3, 12, 48, 128),
        layers_per_block: int = 1,
        sample_size: int = 64,
        scaling_factor: float = 1.0,
    ) -> None:
        values: dict[str, Any] = {
            "latent_channels": latent_channels,
            "block_out_channels": block_out_channels,
            "layers_per_block": layers_per_block,
            "sample_size": sample_size,
            "scaling_factor": scaling_factor,
        }
        super().__init__(
            in_channels=3 * PATCH**2,
            out_channels=3 * PATCH**2,
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            norm_num_groups=1,  # smaller groups would lose the picture's colours
            mid_block_add_attention=False,
            **{**values, "block_out_channels": block_out_channels[-1:]},
        )
        # The code is linear: the encoder has no residual blocks, only the decoder learns more.
        self.encoder.down_blocks, self.encoder.mid_block = nn.ModuleList(), nn.Identity()
        self.register_to_config(in_channels=3, out_channels=3, **values)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Of a saved config what `__init__` takes: it holds the rest for pipelines to read, and derives it anew."""
        taken = inspect.signature(cls.__init__).parameters
        known = {name: value for name, value in config_dict.items() if name in taken or name.startswith("_")}
        return super().extract_init_dict(known, **kwargs)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Any, ...]:
        """Latents of pictures (B, 3, H, W) in [-1, 1]; H and W multiples of 8."""
        return super().encode(F.pixel_unshuffle(x, PATCH), return_dict)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Pictures (B, 3, 8h, 8w) of latents (B, latent_channels, h, w)."""
        picture = F.pixel_shuffle(super().decode(z, return_dict=False, generator=generator)[0], PATCH)
        return DecoderOutput(sample=picture) if return_dict else (picture,)
