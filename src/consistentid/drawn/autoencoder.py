"""A small convolutional autoencoder with diffusers' interface, sized so that a processor can train it.

Pictures are first rearranged into patches (pixel-unshuffle), because layers at full resolution cost most and see least;
after that come residual blocks at ever lower resolution, and the decoder mirrors them. The latents are normalised per
channel, so `scaling_factor` is 1 and every channel of a diffusion model's noise means the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

# A pipeline folder that names this module finds out how to load the class by the base classes it sees here.
__all__ = ["ConvAutoencoderKL", "ModelMixin"]

_LOG_VARIANCE = -30.0  # the least that diffusers' distribution keeps: latents are what the encoder says


class ResidualBlock(nn.Module):
    """Pictures (B, C, H, W) -> (B, C, H, W); begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The picture plus what two convolutions make of it."""
        y = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(y)))
        return out


class Encoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> mean and log-variance (B, 2 * latent_channels, h, w) of the latents.

    Args:
        details: of other latents, which come after these; nothing of this one changes by it.
    """

    def __init__(
        self,
        patch_size: int,
        channels: Sequence[int],
        layers: Sequence[int],
        latent_channels: int,
        details: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        body: list[nn.Module] = [nn.Conv2d(3 * patch_size**2, channels[0], 3, padding=1)]
        for level, (width, blocks) in enumerate(zip(channels, layers, strict=True)):
            if level:
                body.append(nn.Conv2d(channels[level - 1], width, 3, stride=2, padding=1))
            body += [ResidualBlock(width) for _ in range(blocks)]
        self.body = nn.Sequential(*body, _norm(channels[-1]), nn.SiLU())
        self.conv_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)
        self.normalise = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self.details = details

    def forward(self, x: Tensor) -> Tensor:
        """Moments of the latents, which have mean 0 and deviation 1 over the pictures of the training."""
        mean = self.mean(x)
        return torch.cat([mean, torch.full_like(mean, _LOG_VARIANCE)], dim=1)

    def mean(self, x: Tensor) -> Tensor:
        """The latents themselves, (B, latent_channels, h, w)."""
        own: Tensor = self.normalise(self.conv_out(self.body(F.pixel_unshuffle(x, self.patch_size))))
        return own if self.details is None else torch.cat([own, self.details.mean(x)], dim=1)


class Decoder(nn.Module):
    """Latents (B, latent_channels, h, w) -> pictures (B, 3, H, W)."""

    def __init__(self, patch_size: int, channels: Sequence[int], layers: Sequence[int], latent_channels: int) -> None:
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(latent_channels, channels[-1], 3, padding=1)]
        for level in reversed(range(len(channels))):
            body += [ResidualBlock(channels[level]) for _ in range(layers[level])]
            if level:
                body += [nn.Conv2d(channels[level], 4 * channels[level - 1], 1), nn.PixelShuffle(2)]
        self.body = nn.Sequential(*body, _norm(channels[0]), nn.SiLU())
        self.conv_out = nn.Conv2d(channels[0], 3 * patch_size**2, 3, padding=1)
        self.patch_size = patch_size

    def forward(self, z: Tensor) -> Tensor:
        """Pictures of latents."""
        return F.pixel_shuffle(self.conv_out(self.body(z)), self.patch_size)


class ConvAutoencoderKL(AutoencoderKL):  # type: ignore[misc]  # diffusers has no types
    """Pictures (B, 3, H, W) in [-1, 1] <-> latents (B, latent_channels, H / f, W / f), of deviation 1 in each channel.

    ``f`` is ``patch_size * 2 ** (len(channels) - 1)``; H and W are multiples of it.

    Args:
        latent_channels: channels of the latents.
        patch_size: side of the patches that pictures are rearranged into, a power of 2.
        channels: width of every level, from the finest.
        encoder_layers, decoder_layers: residual blocks of every level.
        detail_channels: of the latents, the last so many, which have an encoder of their own: an autoencoder may get
            them when the others are there already and a model of them, too.
        detail_widths, detail_layers: width of every level of that encoder, and its residual blocks.
        sample_size: side of the pictures it was trained on.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 8,
        patch_size: int = 4,
        channels: tuple[int, ...] = (64, 128),
        encoder_layers: tuple[int, ...] = (1, 2),
        decoder_layers: tuple[int, ...] = (3, 3),
        detail_channels: int = 0,
        detail_widths: tuple[int, ...] = (),
        detail_layers: tuple[int, ...] = (),
        sample_size: int = 128,
    ) -> None:
        super().__init__(
            latent_channels=latent_channels,
            block_out_channels=(1,),
            norm_num_groups=1,
            sample_size=sample_size,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        )
        details = Encoder(patch_size, detail_widths, detail_layers, detail_channels) if detail_channels else None
        self.encoder = Encoder(patch_size, channels, encoder_layers, latent_channels - detail_channels, details)
        self.decoder = Decoder(patch_size, channels, decoder_layers, latent_channels)
        halvings = patch_size.bit_length() - 1
        # Pipelines count these entries to find how much smaller the latents are than the picture.
        self.register_to_config(block_out_channels=[3] * halvings + list(channels), scaling_factor=1.0)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """Of a saved config what `__init__` takes: it holds the rest for pipelines to read, and derives it anew."""
        taken = inspect.signature(cls.__init__).parameters
        known = {name: value for name, value in config_dict.items() if name in taken or name.startswith("_")}
        return super().extract_init_dict(known, **kwargs)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 16), channels)
