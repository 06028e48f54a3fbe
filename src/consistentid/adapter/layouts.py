"""Layouts of adapter weights: the released ones, training dumps and our own, all turned into one and checked.

Ours is a flat mapping ``<module>.<name>`` with the modules `image_projection`, `facial_encoder` and `attention`.
The last holds the layers that live in the UNet, by the number of their attention layer: down blocks, up blocks, middle
block, each transformer block giving self-attention (even) and cross-attention (odd).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import CheckpointError
from consistentid.files.weights import listed, natural

_MODULES = {
    "image_proj": "image_projection",
    "image_proj_model": "image_projection",
    "FacialEncoder": "facial_encoder",
    "adapter_modules": "attention",
}
_OURS = ("image_projection", "facial_encoder", "attention")
_IGNORED = ("unet",)  # a training dump repeats the frozen base model
REMEDY = "download it again, or check that it is a ConsistentID checkpoint"


def to_ours(state: Mapping[str, Any], source: str) -> tuple[dict[str, Tensor], set[str]]:
    """Renames a released checkpoint, a training dump or our own layout into our flat layout.

    Returns:
        The tensors, and the names of released modules found (empty for our own layout).

    Raises:
        CheckpointError: `state` has entries of no known module.
    """
    flat: dict[str, Any] = {}
    for module, value in state.items():
        flat |= {f"{module}.{name}": x for name, x in value.items()} if isinstance(value, Mapping) else {module: value}
    tensors: dict[str, Tensor] = {}
    unexpected, released = [], set()
    for key, value in flat.items():
        module, _, name = key.removeprefix("module.").partition(".")
        if module in _IGNORED:
            continue
        if not isinstance(value, Tensor) or not (module in _MODULES or module in _OURS):
            unexpected.append(key)
            continue
        if module in _MODULES:
            released.add(module)
        tensors[f"{_MODULES.get(module, module)}.{name.removeprefix('module.')}"] = value
    if unexpected or not tensors:
        found = f"unexpected entries {listed(unexpected)}" if unexpected else "it is empty"
        raise CheckpointError(
            f"{source} is not a ConsistentID checkpoint: {found}; expected are modules"
            f" {', '.join([*_MODULES, *_OURS])}; {REMEDY}"
        )
    return tensors, released


def released_spec(tensors: Mapping[str, Tensor], hint: Literal["sd15", "sdxl"], source: str) -> AdapterSpec:
    """Spec of weights without a config: sizes from the tensors' shapes, habits from the width of the text.

    Args:
        tensors: state in our layout.
        hint: the family of base models when the width is neither SD1.5's nor SDXL's.
        source: name for messages.

    Raises:
        CheckpointError: tensors that give the sizes are missing.
    """
    image, facial = "image_projection", "facial_encoder.visual_projection"
    needed = {
        "proj": f"{image}.proj.0.weight",
        "norm": f"{image}.norm.weight",
        "tokens": f"{image}.proj.2.weight",
        "clip": f"{image}.perceiver_resampler.proj_in.weight",
        "id_q": f"{image}.perceiver_resampler.layers.0.0.to_q.weight",
        "latents": f"{facial}.latents",
        "facial_q": f"{facial}.layers.0.0.to_q.weight",
        "lora": "attention.0.to_q_lora.down.weight",
    }
    if missing := [name for name in needed.values() if name not in tensors]:
        raise CheckpointError(f"{source} lacks {listed(missing)}; {REMEDY}")
    shape = {name: tensors[key].shape for name, key in needed.items()}
    text_dim = shape["norm"][0]
    dim_head = 64  # of every released size; it cannot be read from the shapes
    return AdapterSpec.released(
        {768: "sd15", 2048: "sdxl"}.get(text_dim, hint),  # type: ignore[arg-type]
        id_dim=shape["proj"][1],
        id_hidden=shape["proj"][0],
        clip_dim=shape["clip"][1],
        text_dim=text_dim,
        tokens=shape["tokens"][0] // text_dim,
        dim_head=dim_head,
        id_heads=shape["id_q"][0] // dim_head,
        id_depth=_depth(tensors, f"{image}.perceiver_resampler.layers"),
        facial_dim=shape["latents"][-1],
        facial_heads=shape["facial_q"][0] // dim_head,
        facial_depth=_depth(tensors, f"{facial}.layers"),
        lora_rank=shape["lora"][0],
    )


def check(spec: AdapterSpec, tensors: Mapping[str, Tensor], source: str) -> None:
    """Compares a state in our layout with what `spec` needs.

    Raises:
        CheckpointError: entries are missing, unexpected or of another shape; they are listed by name.
    """
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "image_projection": build_image_projection(spec),
            "facial_encoder": build_facial_encoder(spec),
        }
    expected = {f"{m}.{name}": x.shape for m, module in modules.items() for name, x in module.state_dict().items()}
    layers = {int(match[1]) for name in tensors if (match := re.match(r"attention\.(\d+)\.", name))}
    attention = {f"attention.{i}.{name}" for i in range(max(layers, default=-1) + 1) for name in layer_names(i)}
    missing = [name for name in sorted({*expected, *attention}, key=natural) if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and name not in attention]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if not layers:
        missing.append("attention.*")
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        text = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"{source} does not fit the adapter: {text}; {REMEDY}")


def layer_names(index: int) -> list[str]:
    """Tensors of attention layer `index`: LoRA on q, k, v, out; in cross-attention (odd numbers) the ID layers too."""
    lora = [f"to_{x}_lora.{side}.weight" for x in ("q", "k", "v", "out") for side in ("down", "up")]
    return lora + (["to_k_ip.weight", "to_v_ip.weight"] if index % 2 else [])


def build_image_projection(spec: AdapterSpec) -> ImageProjection:
    """A fresh image projection of the sizes in `spec`."""
    return ImageProjection(
        spec.id_dim,
        spec.clip_dim,
        spec.text_dim,
        spec.tokens,
        hidden=spec.id_hidden,
        depth=spec.id_depth,
        heads=spec.id_heads,
        dim_head=spec.dim_head,
        shortcut=spec.shortcut,
    )


def build_facial_encoder(spec: AdapterSpec) -> FacialEncoder:
    """A fresh facial encoder of the sizes in `spec`."""
    return FacialEncoder(
        spec.clip_dim,
        spec.text_dim,
        dim=spec.facial_dim,
        depth=spec.facial_depth,
        heads=spec.facial_heads,
        dim_head=spec.dim_head,
    )


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(
        int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in tensors if name.startswith(f"{prefix}.")
    )
