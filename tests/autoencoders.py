"""What holds of every autoencoder of this package: a pipeline folder loads it, and saving it loses nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def through_a_pipeline_folder(vae: Any, folder: Path) -> Any:
    """A small pipeline with it that was saved and loaded: with the same weights, and it draws."""
    tokenizer = CLIPTokenizer.from_pretrained(Path(__file__).parent / "golden/tokenizer/tokenizer")
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
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    pipe = DiffusionPipeline.from_pretrained(folder)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, pipe.vae.state_dict()[name])
    assert pipe("a hat", num_inference_steps=1).images[0].size == (32, 32)
    return pipe


def named_in(folder: Path) -> list[str]:
    """Module and class by which a pipeline folder names its autoencoder; moved, they would leave it unreadable."""
    named: list[str] = json.loads((folder / "model_index.json").read_text())["vae"]
    return named


def assert_saving_says_nothing(vae: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is saved is all taken again: diffusers warns of anything else, and users wonder."""
    vae.save_pretrained(folder)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        again = type(vae).from_pretrained(folder)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records, caplog.messages
    before, after = (json.loads(one.to_json_string()) for one in (vae, again))
    assert before | {"_name_or_path": str(folder)} == after
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in vae.state_dict().items())
