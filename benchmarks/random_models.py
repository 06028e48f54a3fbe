"""Full-size Stable Diffusion 1.5 and SDXL with random weights, for benchmarks without downloads; and their clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import consistentid

Base = Literal["sd15", "sdxl"]
Module = TypeVar("Module", bound=nn.Module)

TOKENIZER = Path(consistentid.__file__).parent / "weights" / "drawn" / "base" / "tokenizer"

_UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def filled(build: Callable[[], Module], dtype: torch.dtype, device: torch.device | str = "cpu") -> Module:
    """A network with random weights that keep activations of moderate size, made much faster than by its own rules."""
    with torch.device("meta"):
        module = build()
    # the method of the base class: diffusers' own warns of networks that keep some layers in float32
    nn.Module.to(module, dtype).to_empty(device=device).eval().requires_grad_(False)
    noise = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for name, tensor in module.named_parameters():
        _fill(name, tensor, noise)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1], device=device)[None])
    return module


def _fill(name: str, tensor: torch.Tensor, noise: torch.Tensor) -> None:
    """Noise repeated and divided by the root of the fan-in; norms have gain 1, biases are 0."""
    if tensor.ndim < 2:
        tensor.fill_(float(name.endswith("weight")))
        return
    flat = tensor.view(-1)
    for start in range(0, len(flat), len(noise)):
        flat[start : start + len(noise)] = noise[: len(flat) - start]
    tensor /= math.sqrt(tensor[0].numel())


def unet(base: Base) -> UNet2DConditionModel:
    """A fresh UNet; see `filled`."""
    return UNet2DConditionModel(**_UNETS[base])


def bare_pipeline(base: Base, network: UNet2DConditionModel) -> Any:
    """A pipeline that has nothing but its UNet."""
    missing = ["vae", "text_encoder", "tokenizer", "scheduler"]
    if base == "sdxl":
        return StableDiffusionXLPipeline(unet=network, **dict.fromkeys([*missing, "text_encoder_2", "tokenizer_2"]))
    missing += ["safety_checker", "feature_extractor"]
    return StableDiffusionPipeline(unet=network, requires_safety_checker=False, **dict.fromkeys(missing))


def image_encoder() -> CLIPVisionModelWithProjection:
    """A fresh CLIP ViT-H/14; see `filled`."""
    config = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
        image_size=224, hidden_act="gelu", projection_dim=1024,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def pipeline(base: Base, dtype: torch.dtype, device: torch.device | str = "cpu") -> Any:
    """A text-to-image pipeline; its tokenizer is the drawn preset's, which knows fewer words."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    small = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, **ends
    )  # fmt: skip
    networks = {
        "unet": filled(lambda: unet(base), dtype, device),
        "vae": filled(lambda: AutoencoderKL(**_VAE, sample_size=512), dtype, device),
        "text_encoder": filled(lambda: CLIPTextModel(small), dtype, device),
    }
    common = {"tokenizer": tokenizer, "scheduler": EulerDiscreteScheduler(**_SCHEDULER)}
    if base == "sd15":
        unused = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**networks, **common, **unused)
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu",
        projection_dim=1280, **ends,
    )  # fmt: skip
    second = filled(lambda: CLIPTextModelWithProjection(large), dtype, device)
    return StableDiffusionXLPipeline(**networks, **common, tokenizer_2=tokenizer, text_encoder_2=second)


def now(device: torch.device) -> float:
    """Seconds: of the clock once a GPU has finished, or of this process's own time on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()
