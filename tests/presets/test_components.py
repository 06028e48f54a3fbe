"""A base's model_index.json names classes: old names are understood, and code that came with a base never runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, AutoPipelineForImage2Image, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil

import ldm
import tiny
from consistentid.errors import CheckpointError
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.presets.components import component_classes
from consistentid.presets.read import load_preset

TRAP = "raise SystemExit('code of a base ran')\n"


def base_with(folder: Path, **index: Any) -> Path:
    shutil.copytree(tiny.preset() / "base", folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    return folder


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"vae": ["trap", "AutoencoderKL"]}, "the component vae is 'AutoencoderKL' of 'trap'"),
        ({"scheduler": ["trap", "DDIMScheduler"]}, "the component scheduler is 'DDIMScheduler' of 'trap'"),
        ({"safety_checker": ["trap", "Checker"]}, "the component safety_checker is 'Checker' of 'trap'"),
        ({"vae": ["os", "PathLike"]}, "the component vae is 'PathLike' of 'os'"),
        ({"vae": ["diffusers", "os"]}, "the component vae is 'os' of 'diffusers'"),
        ({"vae": ["stable_diffusion", "os"]}, "the component vae is 'os' of 'stable_diffusion'"),
        ({"_class_name": ["trap", "Pipeline"]}, r"the pipeline is \['trap', 'Pipeline'\] of 'diffusers'"),
        ({"_class_name": "Trap"}, "the pipeline is 'Trap' of 'diffusers'"),
    ],
)
def test_code_that_came_with_a_base_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: dict[str, Any], words: str
) -> None:
    base = base_with(tmp_path / "base", **index)
    for place in (tmp_path, base, base / "vae", base / "scheduler"):
        (place / "trap.py").write_text(TRAP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(base)
    with pytest.raises(CheckpointError, match=rf"{base}: {words}.*choose another base"):
        _ = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base=base).pipe
    single = tmp_path / "single.safetensors"
    save_file(ldm.single_file(StableDiffusionPipeline.from_pretrained(tiny.preset() / "base")), single)
    around = load_preset(tiny.preset()).override(base=base).override(base=single)
    with pytest.raises(CheckpointError, match=f"config {base}: {words}"):
        _ = ConsistentIDPipeline(around, device="cpu").pipe


def test_names_that_transformers_has_dropped_are_understood(tmp_path: Path) -> None:
    """`CLIPFeatureExtractor` stands in many published bases."""
    base = base_with(tmp_path / "base", feature_extractor=["transformers", "CLIPFeatureExtractor"])
    CLIPImageProcessorPil().save_pretrained(base / "feature_extractor")
    pipe = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base=base).pipe
    assert type(pipe.feature_extractor).__name__.startswith("CLIPImageProcessor")


def test_a_base_without_a_safety_checker_is_not_complained_of(tmp_path: Path) -> None:
    base = base_with(tmp_path / "base", requires_safety_checker=True, safety_checker=[None, None])
    pipe = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base=base).pipe
    assert pipe.config.requires_safety_checker is False
    assert AutoPipelineForImage2Image.from_pipe(pipe).config.requires_safety_checker is False


def test_the_module_that_our_own_bases_name() -> None:
    from consistentid.nn.patch_autoencoder import PatchAutoencoderKL

    index = {"_class_name": "StableDiffusionPipeline", "unet": [None, None], "requires_safety_checker": False}
    own = {"vae": ["consistentid.nn.patch_autoencoder", "PatchAutoencoderKL"]}
    assert component_classes(index | own, "base") == {"vae": PatchAutoencoderKL}
    assert component_classes(index | {"vae": ["diffusers", "AutoencoderKL"]}, "base") == {"vae": AutoencoderKL}
