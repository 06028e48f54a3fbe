"""diffusers' autoencoder over pixel-unshuffled pictures: every layer works at the latents' resolution.

A convolutional autoencoder spends most of its time, in training and in use, on layers at full resolution. Here a
picture is first rearranged into patches, so a small network is fast on a processor, and it can start from the best
linear code of the patches (`start_from_principal_components`) instead of from noise.
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

    @torch.no_grad()
    def start_from_principal_components(self, pictures: Tensor) -> None:
        """Set the weights so that the autoencoder is the linear one of least squared error on the patches of pictures.

        The decoder's residual blocks start as the identity. The norms and activations that end both networks are made
        linear: a strong constant pair of channels fixes the norm's scale, and silu(x) - silu(-x) = x.

        Args:
            pictures: (B, 3, H, W) in [-1, 1], enough for the covariance of 192 values.
        """
        k = self.config.latent_channels
        patches = F.pixel_unshuffle(pictures, PATCH).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH**2).double()
        mean = patches.mean(0)
        variance, basis = torch.linalg.eigh(torch.cov((patches - mean).T))
        basis, spread = basis[:, -k:].flip(1), variance[-k:].flip(0).sqrt()
        gain = spread**-0.5  # between all alike and all as strong as in the picture
        down = (basis * gain).T
        up = basis / gain
        for block in self.decoder.modules():
            if hasattr(block, "conv2"):
                block.conv2.weight.zero_()
                block.conv2.bias.zero_()
        for conv in (self.quant_conv, self.post_quant_conv):
            conv.weight.copy_(torch.eye(conv.out_channels)[:, :, None, None])
            conv.bias.zero_()
        _linear_ends(self.encoder, down, -down @ mean)
        _linear_ends(self.decoder, up, mean)
        self.encoder.conv_out.bias[k:] = -6.0  # nearly no noise on the latents at first


def _linear_ends(part: Any, matrix: Tensor, shift: Tensor) -> None:
    """Make ``conv_in -> identity -> norm -> silu -> conv_out`` compute ``matrix @ x + shift`` at every position."""
    rank = min(matrix.shape)
    left, scale, right = torch.linalg.svd(matrix, full_matrices=False)
    inner, outer = right[:rank], left[:, :rank] * scale[:rank]
    width = part.conv_in.out_channels
    tiny, strong = 0.1, 5.0
    part.conv_in.weight.mul_(0.02)  # spare channels stay for training
    part.conv_in.bias.zero_()
    part.conv_in.weight[: 2 * rank] = 0
    part.conv_in.weight[:rank, :, 1, 1] = tiny * inner.to(part.conv_in.weight)
    part.conv_in.weight[rank : 2 * rank, :, 1, 1] = -tiny * inner.to(part.conv_in.weight)
    part.conv_in.weight[-2:] = 0
    part.conv_in.bias[-2:] = torch.tensor([strong, -strong])
    back = strong * (2 / width) ** 0.5 / tiny  # the norm divides by the deviation that the constant pair alone gives
    part.conv_out.weight.zero_()
    part.conv_out.bias.zero_()
    rows = len(matrix)
    part.conv_out.weight[:rows, :rank, 1, 1] = back * outer.to(part.conv_out.weight)
    part.conv_out.weight[:rows, rank : 2 * rank, 1, 1] = -back * outer.to(part.conv_out.weight)
    part.conv_out.bias[:rows] = shift.to(part.conv_out.bias)
