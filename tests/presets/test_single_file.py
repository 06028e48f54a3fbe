"""Bases of one file: exact in both families, and every other file refused with its remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

import ldm
import tiny
from consistentid.errors import CheckpointError
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.presets.network import Network
from consistentid.presets.read import load_preset
from consistentid.presets.single_file import load_single_file

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """The tiny preset's base as one file holds it."""
    return ldm.single_file(StableDiffusionPipeline.from_pretrained(tiny.preset() / "base"))


@pytest.mark.parametrize("suffix", ["safetensors", pytest.param("ckpt", marks=pytest.mark.slow)])
def test_a_single_file_makes_the_same_pictures(weights: Weights, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"base.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": weights, "epoch": 3}, file)
    else:
        save_file({**weights, "model_ema.decay": torch.ones(1)}, file)
    usual = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    single = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base=file)
    who = usual.identify(tiny.portrait())
    pictures = [studio(who, "a woman in a red hat", seed=1).images[0] for studio in (usual, single)]
    assert np.array_equal(*map(np.asarray, pictures))


def test_the_family_with_two_text_encoders(tmp_path: Path) -> None:
    pipe = tiny.xl_base()
    pipe.save_pretrained(tmp_path / "config")
    for file in (tmp_path / "config").rglob("*.safetensors"):
        file.unlink()
    save_file(ldm.single_file(pipe), tmp_path / "base.safetensors")
    again = load_single_file(tmp_path / "base.safetensors", tmp_path / "config", 32, torch.float32)
    assert type(again) is type(pipe)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        before, after = (getattr(x, name).state_dict() for x in (pipe, again))
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items()), name


def test_a_base_for_inpainting_keeps_its_channels(weights: Weights, tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    wide = torch.randn(weights[name].shape[0], 9, 3, 3)
    save_file({**weights, name: wide}, tmp_path / "inpaint.safetensors")
    pipe = load_single_file(tmp_path / "inpaint.safetensors", tiny.preset() / "base", 32, torch.float16)
    assert pipe.unet.config.in_channels == 9
    assert torch.equal(pipe.unet.conv_in.weight, wide.half())
    assert {network.dtype for network in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float16}


def _without(*prefixes: str) -> Callable[[Weights, Path], None]:
    return lambda weights, file: save_file({k: x for k, x in weights.items() if not k.startswith(prefixes)}, file)


def _truncated(weights: Weights, file: Path) -> None:
    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:50_000])


def _wider(weights: Weights, file: Path) -> None:
    """As a file of the other family: text of twice the width."""
    save_file({k: torch.cat([x, x], -1) if "attn2.to_k" in k else x for k, x in weights.items()}, file)


def _deeper(weights: Weights, file: Path) -> None:
    name = "model.diffusion_model.time_embed.0.weight"
    save_file({**weights, name: torch.zeros(8, 8)}, file)


FAULTS: dict[str, tuple[Callable[[Weights, Path], object], str]] = {
    "weight of the UNet": (_without("model.diffusion_model.out.2.bias"), "the unet lacks the weights conv_out.bias"),
    "weight of the VAE": (
        _without("first_stage_model.decoder.up.0.block.0.norm1."),
        "the vae lacks the weights decoder.up_blocks.2.resnets.0.norm1.bias, decoder.up_blocks.2.resnets.0.norm1.weight"
        "; get its files again",
    ),
    "weight of the text encoder": (
        _without("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
        "the text_encoder lacks the weights final_layer_norm.bias",
    ),
    "UNet": (_without("model."), "is no base: it has no model.diffusion_model.input_blocks.0.0.weight; a base is"),
    "VAE": (_without("first_stage_model."), "has no VAE; choose a version of it that holds one"),
    "text encoder": (_without("cond_stage_model."), "has no text encoder; choose"),
    "half of it": (_truncated, "cannot be loaded (Unable to load weights"),
    "family": (_wider, "reads text of width 64, the adapter is made for 32; choose another base, or the preset"),
    "size": (_deeper, "the unet is of other sizes than a base of its family has, first time_embedding.linear_1.weight"),
    "LoRA": (
        lambda _, file: save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, file),
        "is a LoRA, not a base; give it as a LoRA (--lora)",
    ),
    "no weights": (lambda _, file: file.write_text("hello"), "cannot be loaded"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_other_files_are_refused(weights: Weights, tmp_path: Path, name: str) -> None:
    fault, words = FAULTS[name]
    fault(weights, tmp_path / "base.safetensors")
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base=tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError) as caught:
        _ = studio.pipe
    assert words in str(caught.value)
    assert str(tmp_path / "base.safetensors") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_sizes_and_tokenizers_come_from(tmp_path: Path) -> None:
    """From the base that a preset names otherwise, or from a folder or repository that its YAML names."""
    (tmp_path / "base.safetensors").touch()
    sd15 = load_preset("sd15")
    assert sd15.override(base=tmp_path / "base.safetensors").base.config == sd15.base
    shutil.copy(tiny.preset() / "preset.yaml", tmp_path / "mine.yaml")
    content = (tmp_path / "mine.yaml").read_text()
    named = "base: {path: ./base.safetensors, config: {repo: me/base, revision: abc}}"
    (tmp_path / "mine.yaml").write_text(content.replace("base: ./base", named))
    mine = load_preset(tmp_path / "mine.yaml")
    expected = Network(repo="me/base", revision="abc")
    assert mine.base.config == mine.override(base=tmp_path / "base.safetensors").base.config == expected
