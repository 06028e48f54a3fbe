"""What the decoder's training has of its own: more layers to learn with, latents as a diffusion model makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.errors import CheckpointError, InputError
from consistentid.training.drawn.autoencoder import Redrawing, deepened
from consistentid.training.drawn.recipe import DecoderOptions
from consistentid.training.drawn.text import tokenize

BASE = Path(__file__).parents[3] / "src/consistentid/weights/drawn/base"
CPU = torch.device("cpu")


def autoencoder() -> ConvAutoencoderKL:
    torch.manual_seed(0)
    vae = ConvAutoencoderKL(4, 2, (8, 16, 16), (0, 1, 1), (1, 0, 2), sample_size=32)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, 0.1)
    return vae.eval()


def test_a_deeper_decoder_begins_as_the_one_it_was() -> None:
    vae = autoencoder()
    deeper = deepened(vae, [2, 1, 4], "here")
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        assert torch.equal(deeper.encode(x).latent_dist.mean, z)
        assert torch.equal(deeper.decode(z).sample, vae.decode(z).sample)
    assert list(deeper.config.decoder_layers) == [2, 1, 4]
    assert sum(p.numel() for p in deeper.decoder.parameters()) > sum(p.numel() for p in vae.decoder.parameters())


@pytest.mark.parametrize("layers", [[1, 0, 1], [2, 2], [2, 2, 2, 2]])
def test_no_decoder_loses_layers(layers: list[int]) -> None:
    with pytest.raises(InputError, match=r"recipe\.yaml: decoder: options\.layers are .* the decoder has \[1, 0, 2\]"):
        deepened(autoencoder(), layers, "recipe.yaml: decoder")


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
