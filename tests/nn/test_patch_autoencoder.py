"""The autoencoder of the first release's bases loads through diffusers."""

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from consistentid.nn.patch_autoencoder import PATCH, PatchAutoencoderKL


def test_any_size_that_is_a_multiple_of_the_patch() -> None:
    vae = PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 16))
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
    vae = PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 16), scaling_factor=0.5)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(tmp_path)  # fmt: skip
    # The address that bases saved by any version name; moving the class would make them unreadable.
    named = json.loads((tmp_path / "model_index.json").read_text())["vae"]
    assert named == ["consistentid.nn.patch_autoencoder", "PatchAutoencoderKL"]
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(pipe.vae, PatchAutoencoderKL)
    assert pipe.vae_scale_factor == PATCH
    for name, value in vae.state_dict().items():
        assert torch.equal(value, pipe.vae.state_dict()[name])
    assert pipe("a hat", num_inference_steps=1).images[0].size == (32, 32)


def test_saving_and_loading_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is saved is all taken again: diffusers warns of anything else, and users wonder."""
    vae = PatchAutoencoderKL(latent_channels=4, block_out_channels=(3, 12, 48, 8), sample_size=32, scaling_factor=0.5)
    vae.save_pretrained(tmp_path)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        again = PatchAutoencoderKL.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records, caplog.messages
    before, after = (json.loads(one.to_json_string()) for one in (vae, again))
    assert before | {"_name_or_path": str(tmp_path)} == after
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in vae.state_dict().items())
