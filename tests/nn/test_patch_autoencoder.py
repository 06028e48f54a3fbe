"""The autoencoder of the first release's bases loads through diffusers."""

from pathlib import Path

import pytest
import torch

from autoencoders import assert_saving_says_nothing, named_in, through_a_pipeline_folder
from consistentid.nn.patch_autoencoder import PATCH, PatchAutoencoderKL


def test_any_size_that_is_a_multiple_of_the_patch() -> None:
    vae = PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 16))
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 24, 40)).latent_dist.mode()
        assert latents.shape == (1, 4, 3, 5)
        assert vae.decode(latents, return_dict=False)[0].shape == (1, 3, 24, 40)


def test_a_pipeline_folder_loads_it(tmp_path: Path) -> None:
    pipe = through_a_pipeline_folder(
        PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 16), scaling_factor=0.5), tmp_path
    )
    assert named_in(tmp_path) == ["consistentid.nn.patch_autoencoder", "PatchAutoencoderKL"]
    assert isinstance(pipe.vae, PatchAutoencoderKL)
    assert pipe.vae_scale_factor == PATCH


def test_saving_and_loading_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 8), sample_size=32, scaling_factor=0.5)
    assert_saving_says_nothing(vae, tmp_path, caplog)
