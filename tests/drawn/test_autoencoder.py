"""The drawn preset's autoencoder loads through diffusers, and its latents are what pipelines expect."""

from pathlib import Path

import pytest
import torch

from autoencoders import assert_saving_says_nothing, named_in, through_a_pipeline_folder
from consistentid.drawn.autoencoder import ConvAutoencoderKL

SMALL = {
    "latent_channels": 4, "patch_size": 2, "channels": (16, 16, 16), "encoder_layers": (0, 1, 1),
    "decoder_layers": (1, 1, 1), "sample_size": 32,
}  # fmt: skip


def test_latents_have_deviation_one_in_every_channel() -> None:
    torch.manual_seed(0)
    vae = ConvAutoencoderKL(**SMALL).train()
    pictures = torch.randn(64, 3, 32, 32) * torch.rand(64, 1, 1, 1)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist
    torch.testing.assert_close(latents.mean.std(dim=(0, 2, 3)), torch.ones(4), atol=0.02, rtol=0)
    assert latents.std.max() < 1e-4  # what is sampled is what the encoder says
    assert vae.config.scaling_factor == 1.0


@pytest.mark.parametrize(("patch_size", "channels"), [(1, (8, 8, 8, 8)), (2, (8, 8, 8)), (4, (8, 8)), (8, (16,))])
def test_pipelines_count_the_same_scale(patch_size: int, channels: tuple[int, ...]) -> None:
    layers = (1,) * len(channels)
    vae = ConvAutoencoderKL(4, patch_size, channels, layers, layers)
    assert 2 ** (len(vae.config.block_out_channels) - 1) == 8
    with torch.no_grad():
        assert vae.eval().encode(torch.zeros(1, 3, 16, 24)).latent_dist.mean.shape == (1, 4, 2, 3)


def test_any_size_that_is_a_multiple_of_eight() -> None:
    vae = ConvAutoencoderKL(**SMALL).eval()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 24, 40)).latent_dist.mode()
        assert latents.shape == (1, 4, 3, 5)
        assert vae.decode(latents, return_dict=False)[0].shape == (1, 3, 24, 40)


def test_a_pipeline_folder_loads_it(tmp_path: Path) -> None:
    pipe = through_a_pipeline_folder(ConvAutoencoderKL(**SMALL), tmp_path)
    assert named_in(tmp_path) == ["consistentid.drawn.autoencoder", "ConvAutoencoderKL"]
    assert isinstance(pipe.vae, ConvAutoencoderKL)
    assert pipe.vae_scale_factor == 8


def test_saving_and_loading_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = ConvAutoencoderKL(**SMALL)
    assert_saving_says_nothing(vae, tmp_path, caplog)
