"""A base pipeline in the layout of single-file checkpoints, in which Stable Diffusion was first published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers": "transformer.resblocks", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "fc1": "c_fc",
    "fc2": "c_proj", "self_attn": "attn", "final_layer_norm": "ln_final", "embeddings.token_embedding":
    "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def single_file(pipe: Any) -> dict[str, Tensor]:
    """All weights of an SD1.5 or SDXL pipeline by the names that they have in a single file."""
    parts = {"model.diffusion_model": unet(pipe.unet), "first_stage_model": vae(pipe.vae)}
    if hasattr(pipe, "text_encoder_2"):
        parts["conditioner.embedders.0.transformer"] = clip(pipe.text_encoder)
        parts["conditioner.embedders.1.model"] = open_clip(pipe.text_encoder_2)
    else:
        parts["cond_stage_model.transformer"] = clip(pipe.text_encoder)
    return {f"{part}.{name}": x.contiguous() for part, state in parts.items() for name, x in state.items()}


def unet(network: Any) -> dict[str, Tensor]:
    """UNet2DConditionModel, with its blocks numbered through."""
    layers = network.config.layers_per_block
    blocks = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    for block in range(len(network.down_blocks)):
        first = block * (layers + 1) + 1
        for layer in range(layers):
            blocks[f"down_blocks.{block}.resnets.{layer}"] = f"input_blocks.{first + layer}.0"
            blocks[f"down_blocks.{block}.attentions.{layer}"] = f"input_blocks.{first + layer}.1"
        blocks[f"down_blocks.{block}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for block, module in enumerate(network.up_blocks):
        first = block * (layers + 1)
        for layer in range(layers + 1):
            blocks[f"up_blocks.{block}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            blocks[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        last = 2 if hasattr(module, "attentions") else 1
        blocks[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{last}.conv"
    return {
        renamed(name, blocks | (RESNET if ".resnets." in name else {})): x for name, x in network.state_dict().items()
    }


def vae(network: Any) -> dict[str, Tensor]:
    """AutoencoderKL, with the decoder's levels counted from below, and attention made of convolutions."""
    names = {
        "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0":
        "mid.attn_1", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "downsamplers.0.conv":
        "downsample.conv", "upsamplers.0.conv": "upsample.conv", "group_norm": "norm", "to_q": "q", "to_k": "k",
        "to_v": "v", "to_out.0": "proj_out", "resnets": "block",
    }  # fmt: skip
    levels = len(network.config.block_out_channels)
    for level in range(levels):
        names |= {f"down_blocks.{level}": f"down.{level}", f"up_blocks.{level}": f"up.{levels - 1 - level}"}
    state = {renamed(name, names): x for name, x in network.state_dict().items()}
    return {name: x[..., None, None] if ".attn_1." in name and x.ndim == 2 else x for name, x in state.items()}


def clip(network: Any) -> dict[str, Tensor]:
    """A text encoder as transformers named its weights then."""
    return {f"text_model.{name.removeprefix('text_model.')}": x for name, x in network.state_dict().items()}


def open_clip(network: Any) -> dict[str, Tensor]:
    """A text encoder in open_clip's layout, with queries, keys and values in one."""
    state = {name.removeprefix("text_model."): x for name, x in network.state_dict().items()}
    state["text_projection"] = state.pop("text_projection.weight").T
    for name in [name for name in state if "q_proj" in name]:
        three = [state.pop(name.replace("q_proj", f"{x}_proj")) for x in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(three)
    return {renamed(name, OPEN_CLIP): x for name, x in state.items()}


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A name with every part of it that `names` knows, whole words between dots, exchanged."""
    for old, new in names.items():
        name = re.sub(rf"(^|\.){re.escape(old)}(?=\.|$)", rf"\g<1>{new}", name)
    return name
