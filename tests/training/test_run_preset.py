"""The base that a training writes is the one that it began with, but for the weights that it learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import save_file

import tiny
from consistentid.presets.loading import TEXT_PROJECTION, text_projection
from consistentid.presets.read import load_preset
from consistentid.training.run_preset import write_base


@pytest.mark.parametrize(
    ("base", "option"),
    [
        (lambda: StableDiffusionPipeline.from_pretrained(tiny.preset() / "base"), "requires_safety_checker"),
        (tiny.xl_base, "force_zeros_for_empty_prompt"),
    ],
)
def test_options_of_the_pipeline_are_kept(tmp_path: Path, base: Callable[[], Any], option: str) -> None:
    pipe = base()
    before = pipe.unet.state_dict()
    learnt = {name: torch.zeros_like(x) for name, x in before.items()}
    for value in (True, False):
        pipe.register_to_config(**{option: value})
        write_base(pipe, pipe.unet.to_json_string(), learnt, None, tmp_path / str(value))
        written = DiffusionPipeline.from_pretrained(tmp_path / str(value))
        assert written.config[option] is value
        assert not any(x.any() for x in written.unet.state_dict().values())
        assert not pipe.unet.state_dict().keys() ^ before.keys()
    assert any(x.any() for x in pipe.unet.state_dict().values()), "the networks in training stay as they are"


def test_texts_and_pictures_can_still_be_compared(tmp_path: Path) -> None:
    base = load_preset(tiny.preset()).base
    assert text_projection(base) is None
    pipe = StableDiffusionPipeline.from_pretrained(base.fetch())
    projection = tmp_path / TEXT_PROJECTION
    save_file({"text_projection.weight": torch.eye(3)}, projection)
    write_base(pipe, pipe.unet.to_json_string(), pipe.unet.state_dict(), projection, tmp_path / "base")
    written = text_projection(replace(base, path=tmp_path / "base"))
    assert written
    assert written.read_bytes() == projection.read_bytes()
