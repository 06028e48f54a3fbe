"""The drawn preset's autoencoder loads through diffusers, and its latents are what pipelines expect."""

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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
    tokenizer = CLIPTokenizer.from_pretrained(Path(__file__).parents[1] / "golden/tokenizer/tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(16, 16), cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    vae = ConvAutoencoderKL(**SMALL)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    # The address that bases saved by any version name; moving the class would make them unreadable.
    named = json.loads((tmp_path / "model_index.json").read_text())["vae"]
    assert named == ["consistentid.drawn.autoencoder", "ConvAutoencoderKL"]
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(pipe.vae, ConvAutoencoderKL)
    assert pipe.vae_scale_factor == 8
    for name, value in vae.state_dict().items():
        assert torch.equal(value, pipe.vae.state_dict()[name])
    assert pipe("a hat", num_inference_steps=1).images[0].size == (32, 32)


def test_saving_and_loading_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is saved is all taken again: diffusers warns of anything else, and users wonder."""
    vae = ConvAutoencoderKL(**SMALL)
    vae.save_pretrained(tmp_path)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        again = ConvAutoencoderKL.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records, caplog.messages
    before, after = (json.loads(one.to_json_string()) for one in (vae, again))
    assert before | {"_name_or_path": str(tmp_path)} == after
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in vae.state_dict().items())
