"""Pipelines of every kind that the adapter serves, on the parts of a tiny text-to-image pipeline."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import ControlNetModel, DDIMScheduler, LCMScheduler, MotionAdapter, UNet2DConditionModel
from PIL import Image

WIDTH, HEIGHT = 96, 64
PICTURE = Image.effect_noise((WIDTH, HEIGHT), 80).convert("RGB")
MASK = Image.new("L", (WIDTH, HEIGHT), 255)
SECTION = {"image": PICTURE, "strength": 1.0}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "txt2img": ("StableDiffusionPipeline", "StableDiffusionXLPipeline", {}),
    "img2img": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline", SECTION),
    "inpaint": ("StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline", SECTION | {"mask_image": MASK}),
    "controlnet": ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline", {"image": PICTURE}),
    "controlnet_inpaint": (
        "StableDiffusionControlNetInpaintPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
        SECTION | {"mask_image": MASK, "control_image": PICTURE},
    ),
    "pag": ("StableDiffusionPAGPipeline", "StableDiffusionXLPAGPipeline", {"pag_scale": 2.0}),
    "lcm": ("LatentConsistencyModelPipeline", "StableDiffusionXLPipeline", {}),
    "animatediff": ("AnimateDiffPipeline", "AnimateDiffSDXLPipeline", {"num_frames": 2}),
}


def controlnet(pipe: Any) -> ControlNetModel:
    """One that has learnt something: fresh ones end in zeros."""
    network = ControlNetModel.from_unet(pipe.unet)
    for layer in [*network.controlnet_down_blocks, network.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.5)
    return network.eval()


def make(kind: str, family: int, pipe: Any, network: ControlNetModel | None = None) -> Any:
    """The pipeline of a kind on the parts of a text-to-image pipeline, and a ControlNet if there is one already."""
    name = KINDS[kind][family]
    cls, parts = getattr(diffusers, name), pipe.components
    if kind.startswith("controlnet"):
        torch.manual_seed(0)
        parts |= {"controlnet": network or controlnet(pipe)}
    if kind == "animatediff":
        torch.manual_seed(0)
        config = pipe.unet.config
        motion = MotionAdapter(
            config.block_out_channels, config.layers_per_block, motion_num_attention_heads=4,
            motion_norm_num_groups=config.norm_num_groups,
        )  # fmt: skip
        parts |= {"motion_adapter": motion}
    if name == "LatentConsistencyModelPipeline":
        unet = UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=32)
        unet.load_state_dict(pipe.unet.state_dict(), strict=False)
        parts |= {"unet": unet}
    parts = {name: part for name, part in parts.items() if name in cls.__init__.__annotations__ or part is not None}
    result = cls(**parts, **({"requires_safety_checker": False} if "safety_checker" in parts else {}))
    scheduler = LCMScheduler if kind == "lcm" else DDIMScheduler
    result.scheduler = scheduler.from_config(pipe.scheduler.config, clip_sample=False)
    result.set_progress_bar_config(disable=True)
    return result


def latents(pipe: Any, call: dict[str, Any], **more: Any) -> torch.Tensor:
    """The latents of a call, of the same noise each time unless `generator` says otherwise."""
    more = {"generator": torch.Generator().manual_seed(1), "height": HEIGHT, "width": WIDTH} | more
    output = pipe(**call, **more, output_type="latent")
    result: torch.Tensor = output.frames if hasattr(output, "frames") else output.images
    return result
