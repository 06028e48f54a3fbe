"""Latents on disk are those of the autoencoder and the pictures at hand."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.pools import Pool, PoolSpec
from consistentid.training.drawn.latents import open_latents

CPU = torch.device("cpu")


def autoencoder(seed: int) -> ConvAutoencoderKL:
    torch.manual_seed(seed)
    vae = ConvAutoencoderKL(4, 2, (8, 16, 16), (0, 1, 1), (1, 1, 1), sample_size=32)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, 0.1)
    return vae.eval()


def pool(people: int, value: int) -> Pool:
    spec = PoolSpec(people=people, scenes=2, size=32)
    images = np.full((len(spec), 32, 32, 3), value, np.uint8)
    return Pool(
        spec, images, images[..., 0], np.zeros((len(spec), 5, 2), np.float32), np.zeros((len(spec), 4), np.float32)
    )


def test_latents_are_those_of_this_encoder_and_these_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = autoencoder(0)
    first = open_latents(pool(3, 90), vae, tmp_path, CPU)
    assert first.shape[0] == 6
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.add_(1.0)  # which changes no latents
    monkeypatch.setattr(vae, "encode", lambda *_args, **_: pytest.fail("they are there already"))
    assert (open_latents(pool(3, 90), vae, tmp_path, CPU)[:] == first[:]).all()
    assert (pickle.loads(pickle.dumps(first))[np.array([4, 1])] == first[[4, 1]]).all()
    other = open_latents(pool(3, 90), autoencoder(1), tmp_path, CPU)
    assert (other[:] != first[:]).any()
    assert open_latents(pool(4, 90), autoencoder(0), tmp_path, CPU).shape[0] == 8
    scaled = autoencoder(0)
    scaled.register_to_config(scaling_factor=2 * vae.config.scaling_factor)
    torch.testing.assert_close(open_latents(pool(3, 90), scaled, tmp_path, CPU)[:], 2 * first[:], rtol=2e-3, atol=0.0)
