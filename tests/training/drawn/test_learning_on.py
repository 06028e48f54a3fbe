"""Autoencoders that learn on from others, and latents as a diffusion model makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from consistentid.drawn.autoencoder import ConvAutoencoderKL, ResidualBlock
from consistentid.errors import CheckpointError, InputError
from consistentid.training.drawn.autoencoder import Redrawing, begin_with
from consistentid.training.drawn.recipe import DecoderOptions
from consistentid.training.drawn.text import tokenize

BASE = Path(__file__).parents[3] / "src/consistentid/weights/drawn/base"
CPU = torch.device("cpu")


def autoencoder(decoder_layers: Sequence[int] = (1, 0, 2), details: int = 0, **sizes: Any) -> ConvAutoencoderKL:
    """A small one with 4 channels of latents, and so many of details."""
    torch.manual_seed(details)
    more = {"detail_channels": details, "detail_widths": (8, 8, 16), "detail_layers": (0, 1, 1)} if details else {}
    given = {"patch_size": 2, "channels": (8, 16, 16), "encoder_layers": (0, 1, 1), **more, **sizes}
    vae = ConvAutoencoderKL(4 + details, decoder_layers=decoder_layers, sample_size=32, **given)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, 0.1)
        for block in vae.modules():
            if isinstance(block, ResidualBlock):  # as it begins
                block.conv2.weight.zero_()
                block.conv2.bias.zero_()
        vae.encoder.normalise.running_mean.normal_(0, 0.1)
    return vae.eval()


@pytest.mark.parametrize("details", [0, 3])
def test_latents_and_pictures_stay_those_of_the_autoencoder_that_another_begins_with(details: int) -> None:
    known, vae = autoencoder(), autoencoder((2, 1, 4), details)
    begin_with(vae, known, "known")
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        z, before = vae.encode(x).latent_dist.mean, known.encode(x).latent_dist.mean
        assert z.shape == (2, 4 + details, 4, 6)
        torch.testing.assert_close(z[:, :4], before, rtol=0, atol=0)
        torch.testing.assert_close(vae.decode(z).sample, known.decode(before).sample)
    again = autoencoder((2, 1, 4), details)
    begin_with(again, vae, "known")
    with torch.no_grad():
        assert torch.equal(again.encode(x).latent_dist.mean, z)


def test_an_autoencoder_with_details_survives_a_folder(tmp_path: Path) -> None:
    vae = autoencoder(details=3)
    vae.save_pretrained(tmp_path)
    loaded = ConvAutoencoderKL.from_pretrained(tmp_path).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        assert torch.equal(loaded.encode(x).latent_dist.mean, z)
        assert torch.equal(loaded.decode(z).sample, vae.decode(z).sample)


@pytest.mark.parametrize(
    ("vae", "message"),
    [
        (autoencoder((1, 0, 1)), r"decoder_layers \[1, 0, 2\], and this recipe \[1, 0, 1\]"),
        (autoencoder((2, 2), channels=(8, 16), encoder_layers=(0, 1)), "in its encoder"),
        (autoencoder(encoder_layers=(1, 1, 1)), "in its encoder"),
        (autoencoder(channels=(8, 16, 24)), "in its encoder"),
    ],
)
def test_nobody_begins_with_another_architecture(vae: ConvAutoencoderKL, message: str) -> None:
    with pytest.raises(InputError, match=f"known has .*{message}"):
        begin_with(vae, autoencoder(), "known")


def test_details_are_not_forgotten() -> None:
    with pytest.raises(InputError, match=r"another .*details"):
        begin_with(autoencoder(), autoencoder(details=3), "known")


def test_a_likeness_is_asked_of_somebody() -> None:
    with pytest.raises(InputError, match="identity needs recognisers"):
        DecoderOptions(noise=0.4, features=0.5, adversarial=0.1, identity=0.2)


def redrawn(share: float, most: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents of noise, and as they are redrawn."""
    redrawing = Redrawing(BASE, share, most, CPU)
    z = torch.randn(4, 12, 16, 16, generator=torch.Generator().manual_seed(5))
    tokens = tokenize(redrawing.tokenizer, ["a woman in a red hat"] * 4)
    return z, redrawing(z, tokens, torch.Generator().manual_seed(seed))


def test_latents_are_redrawn_or_stay() -> None:
    z, same = redrawn(0.0, 0.4)
    assert torch.equal(same, z)
    z, some = redrawn(0.5, 0.4)
    stay = [torch.equal(a, b) for a, b in zip(z, some, strict=True)]
    assert 0 < sum(stay) < 4
    assert torch.equal(redrawn(0.5, 0.4)[1], some)
    assert not torch.equal(redrawn(0.5, 0.4, seed=1)[1], some)


def test_more_noise_takes_them_further() -> None:
    (z, near), (_, far) = redrawn(1.0, 0.02), redrawn(1.0, 0.9)
    assert 0 < (near - z).square().mean() < 0.2 * (far - z).square().mean()


def test_a_folder_without_a_base_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="base"):
        Redrawing(tmp_path, 0.5, 0.4, CPU)
