"""A base from one file in the layout that Stable Diffusion was first published in, `.safetensors` or `.ckpt`.

Such a file holds weights alone. Sizes, tokenizers and scheduler are those of a base of its family in diffusers' layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consistentid.errors import CheckpointError
from consistentid.files.weights import check_complete, check_network
from consistentid.presets.components import component_classes

_UNET = "model.diffusion_model."
_FIRST_LAYER = f"{_UNET}input_blocks.0.0.weight"
_READS_TEXT = "attn2.to_k.weight"
_OTHER_PARTS = {"VAE": ("first_stage_model.",), "text encoder": ("cond_stage_model.", "conditioner.")}
_FAMILIES = {768: " (Stable Diffusion 1.x)", 1024: " (Stable Diffusion 2.x)", 2048: " (SDXL)"}


def load_single_file(file: Path, config: Path, text_dim: int, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a single-file checkpoint; a UNet for inpainting keeps its further input channels.

    Args:
        file: the checkpoint.
        config: folder of a pipeline of the same family in diffusers' layout, of which no weights are read.
        text_dim: width of the text that the adapter was made for.
        dtype: of all weights.

    Raises:
        CheckpointError: a LoRA, part of a model, a model of another family, or one that lacks weights.
    """
    import diffusers
    from diffusers.loaders import single_file_utils as original

    weights = original.load_single_file_checkpoint(str(file))
    _check_kind(file, weights, text_dim)
    channels = weights[_FIRST_LAYER].shape[1]
    # left to `from_single_file`, either would fail without a word on which weights are missing
    parts = {
        "unet": (diffusers.UNet2DConditionModel, {"in_channels": channels}, original.convert_ldm_unet_checkpoint),
        "vae": (diffusers.AutoencoderKL, {}, original.convert_ldm_vae_checkpoint),
    }
    networks = {
        name: _network(kind.load_config(config / name) | changes, kind, convert, weights, dtype, f"{file}: the {name}")
        for name, (kind, changes, convert) in parts.items()
    }
    index = diffusers.DiffusionPipeline.load_config(config)
    component_classes(index, f"config {config}")
    pipeline = getattr(diffusers, index["_class_name"])
    pipe = pipeline.from_single_file(str(file), config=str(config), dtype=dtype, **networks)
    for name, network in pipe.components.items():
        if isinstance(network, nn.Module):
            missing = (weight for weight, value in network.named_parameters() if value.is_meta)
            check_network(network, missing, f"{file}: the {name}")
    return pipe


def _check_kind(file: Path, weights: Mapping[str, Tensor], text_dim: int) -> None:
    if _FIRST_LAYER not in weights:
        if any("lora" in name for name in weights):
            raise CheckpointError(f"{file} is a LoRA, not a base; give it as a LoRA (--lora) beside a base")
        raise CheckpointError(
            f"{file} is no base: it has no {_FIRST_LAYER}; a base is one file with UNet, VAE and text encoder in the"
            " layout of Stable Diffusion, or a folder or repository of diffusers"
        )
    width = next((x.shape[-1] for name, x in weights.items() if name.startswith(_UNET) and _READS_TEXT in name), 0)
    if width != text_dim:
        found, wanted = (f"{x}{_FAMILIES.get(x, '')}" for x in (width, text_dim))
        raise CheckpointError(
            f"{file} reads text of width {found}, the adapter is made for {wanted}; choose another base, or the preset"
            " of its family"
        )
    for part, prefixes in _OTHER_PARTS.items():
        if not any(name.startswith(prefixes) for name in weights):
            raise CheckpointError(f"{file} has no {part}; choose a version of it that holds one")


def _network(
    config: dict[str, Any],
    kind: Any,
    convert: Callable[..., dict[str, Tensor]],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    source: str,
) -> nn.Module:
    """A network of diffusers with the weights that `convert` finds for it."""
    with torch.device("meta"):
        network: nn.Module = kind.from_config(config)
    found, expected = convert(weights, config), network.state_dict()
    check_complete(expected.keys() - found.keys(), source)
    if other := [name for name, value in expected.items() if found[name].shape != value.shape]:
        raise CheckpointError(f"{source} is of other sizes than a base of its family has, first {other[0]}")
    network.load_state_dict({name: found[name].to(dtype) for name in expected}, assign=True)
    return network.eval()
