"""The smallest pipelines of both families that have all the adapter meets, and an adapter that changes them visibly."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.spec import AdapterSpec
from vectors import GOLDEN, ID_DIM, WIDTH

CROSS: Final = 48
"""Width of the cross-attention."""

_SIZES: Final[dict[str, Any]] = {
    "id_dim": ID_DIM, "clip_dim": WIDTH, "text_dim": CROSS, "dim_head": 16, "id_hidden": 32, "id_depth": 1,
    "id_heads": 3, "facial_dim": 32, "facial_depth": 1, "facial_heads": 2, "lora_rank": 2,
}  # fmt: skip
SMALL: Final = AdapterSpec(**_SIZES)
RELEASED: Final = tuple(AdapterSpec.released(base, **_SIZES) for base in ("sd15", "sdxl"))
"""The same with the habits of the released weights, of each family."""


def _text(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=815, hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=16, bos_token_id=813, eos_token_id=814, pad_token_id=814,
    )  # fmt: skip


def small_pipe(family: int = 0, *, cross: int = CROSS, channels: tuple[int, int] = (8, 16), seed: int = 0) -> Any:
    """A pipeline of SD (0) or SDXL (1) with two UNet blocks, whose latents are an eighth of the picture's size."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer" / "tokenizer")
    pooled = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    pooled |= {"projection_class_embeddings_input_dim": 6 * 4 + 16}
    parts = {
        "vae": AutoencoderKL(
            block_out_channels=(4,) * 4, layers_per_block=1, norm_num_groups=2, sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        "tokenizer": tokenizer,
        "unet": UNet2DConditionModel(
            sample_size=16, block_out_channels=channels, layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=cross, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **(pooled if family else {}),
        ).eval(),
        "scheduler": DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    }  # fmt: skip
    if family:
        text = CLIPTextModel(_text(cross - 28)).eval(), CLIPTextModelWithProjection(_text(28)).eval()
        pipe = StableDiffusionXLPipeline(**parts, text_encoder=text[0], text_encoder_2=text[1], tokenizer_2=tokenizer)
    else:
        parts |= {"text_encoder": CLIPTextModel(_text(cross)).eval(), "safety_checker": None, "feature_extractor": None}
        pipe = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def attach_small(pipe: Any, spec: AdapterSpec = SMALL) -> ConsistentID:
    """A small adapter on a small pipeline, whose LoRA already does something."""
    torch.manual_seed(1)
    cid = ConsistentID(spec)
    cid.attach(pipe)
    with torch.no_grad():
        for parameter in cid.parameter_groups()["lora"]:
            parameter.normal_(std=0.3)
    return cid
