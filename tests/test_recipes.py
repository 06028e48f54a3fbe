"""The recipes of `docs/`, run as they stand there, on tiny networks."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file

import tiny
from consistentid.adapter import store
from consistentid.adapter.adapter import ConsistentID

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "pipelines.md"
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def save_lora(file: Path, unet: torch.nn.Module) -> None:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    size = unet.get_submodule(layer).in_features
    state = {f"unet.{layer}.lora_A.weight": torch.randn(2, size), f"unet.{layer}.lora_B.weight": torch.randn(size, 2)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's first block names, at tiny size."""
    monkeypatch.chdir(tmp_path)
    source = tiny.preset()
    unet = UNet2DConditionModel.from_pretrained(source / "base" / "unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16)).save_pretrained("controlnet")
    MotionAdapter(
        (16, 32), motion_layers_per_block=1, motion_num_attention_heads=4, motion_norm_num_groups=4
    ).save_pretrained("motion")
    for name in ("style", "hub/lcm/lcm", "hub/lightning/lightning", "hub/hyper/hyper"):
        save_lora(Path(f"{name}.safetensors"), unet)

    xl = tiny.xl_base()
    xl.save_pretrained("base-xl")
    Path("adapter").mkdir()
    shutil.copy(source / "adapter" / "model.safetensors", "adapter/15.safetensors")
    cid = ConsistentID(replace(ConsistentID.from_pretrained(source / "adapter").spec, shortcut=True))
    with cid.attached(xl):
        store.write(Path("adapter/xl.safetensors"), cid.spec, cid.state_dict())

    tiny.portrait().save("ada.png")
    tiny.portrait(9).save("tom.png")
    tiny.draw((60, 60), size=(160, 128))[0].save("party.png")
    mask = Image.new("L", (160, 128), 0)
    mask.paste(255, (30, 20, 90, 100))
    mask.save("mask.png")
    Image.effect_noise((64, 64), 60).convert("RGB").save("pose.png")
    return {
        "preset": source, "base": str(source / "base"), "base_xl": "base-xl", "adapter": "adapter",
        "adapter_file": "15.safetensors", "adapter_xl_file": "xl.safetensors", "controlnet": "controlnet",
        "style": "style.safetensors", "lcm": "hub/lcm/lcm.safetensors", "hyper": "hub/hyper/hyper.safetensors",
        "lightning": "hub/lightning/lightning.safetensors", "motion": "motion", "size": (64, 64), "steps": 2,
    }  # fmt: skip


def run(page: Path, stand_ins: dict[str, Any], skip: int = 0) -> dict[str, Any]:
    """All names after the recipes of a page, the first of which may be left out."""
    text, names = page.read_text(), dict(stand_ins)
    for recipe in list(FENCE.finditer(text))[skip:]:
        line = text[: recipe.start(1)].count("\n")
        exec(compile("\n" * line + recipe[1], page, "exec"), names)  # so that errors name the page's lines
    return names


@pytest.mark.slow
def test_recipes_for_several_people(stand_ins: dict[str, Any]) -> None:
    names = run(DOCS / "several-people.md", stand_ins)
    assert Path("friends.png").exists()
    assert Path("repaired.png").exists()
    assert len(names["images"]) == 2


@pytest.mark.slow
def test_recipes(stand_ins: dict[str, Any]) -> None:
    first, *recipes = FENCE.finditer(PAGE.read_text())
    named: dict[str, Any] = {}
    exec(first[1], named)
    assert set(stand_ins) == {name for name in named if not name.startswith("__")}
    assert len(recipes) > 10
    names = run(PAGE, stand_ins, skip=1)
    assert Path("forest.png").exists()
    assert names["fast"].preset.settings.guidance_scale == 1
    assert len(names["frames"]) == 16
    assert names["image"].size == (64, 64)
