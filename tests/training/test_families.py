"""The recipes of both families on small networks of their kinds: they train on what the families' pipelines feed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from click.testing import CliRunner
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPImageProcessorPil

import tiny
from consistentid import ConsistentID, Identity
from consistentid.cli import main
from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.drawn.portraits import Caption
from consistentid.faces.parts import PARTS
from consistentid.training.config import TrainConfig
from consistentid.training.trainer import Trainer

RECIPES = Path(__file__).parents[2] / "recipes"
FAMILIES = {"sd15": "micro15", "sdxl": "microxl"}
SIZES = {
    "text_dim": 128, "dim_head": 16, "id_hidden": 32, "id_depth": 1, "id_heads": 2, "facial_dim": 32, "facial_depth": 1,
    "facial_heads": 2, "lora_rank": 4,
}  # fmt: skip
SIDE = 64

Changes = Callable[..., tuple[str, ...]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw_dataset(Drawing(2, 2, SIDE, "train", 0), folder)
    return folder


@pytest.fixture(scope="module")
def changes(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Changes:
    """What a recipe has to be told to run at small size: its networks, their widths, and how long."""
    folder = tmp_path_factory.mktemp("encoders")

    def make(family: str, **others: Any) -> tuple[str, ...]:
        home, encoder = golden / FAMILIES[family], folder / family
        if not encoder.exists():
            shutil.copytree(home / "image_encoder", encoder)
            CLIPImageProcessorPil().save_pretrained(encoder)
        networks = {"base": home / "pipe", "image_encoder": encoder}
        networks |= {"recogniser": tiny.preset() / "recogniser.onnx", "parser": tiny.preset() / "parser"}
        options = {"networks": {role: str(path) for role, path in networks.items()}, "spec": SIZES, "workers": 0}
        options |= {"schedule": {"steps": 2, "batch": 4}, "log": {"every": 1}, **others}
        return (f"size={SIDE}", *(f"adapter.{name}={json.dumps(value)}" for name, value in options.items()))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipe_trains_weights_that_any_pipeline_of_its_family_takes(
    family: str,
    changes: Changes,
    data: Path,
    tmp_path: Path,
    base: Callable[[str], Any],
    person: Callable[..., Identity],
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    run, options = tmp_path / "run", [x for change in changes(family) for x in ("--set", change)]
    line = ["train", RECIPES / f"{family}.yaml", "--data", data, "--out", run, "--device", "cpu", *options]
    result = CliRunner().invoke(main, list(map(str, line)))
    assert result.exit_code == 0, result.output
    losses = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert all(np.isfinite([row["noise"], row["localisation"]]).all() for row in losses)
    assert {path.name for path in (run / "cache").iterdir()} == {"latents", "text"}

    cid = ConsistentID.from_pretrained(run)
    assert cid.spec.shortcut == (family == "sdxl")
    pipe = base(FAMILIES[family])
    images = []
    with cid.attached(pipe):
        for seed in range(2):
            inputs = cid.inputs(person(seed, **cid.spec.networks), "a woman on a beach")
            generator = torch.Generator().manual_seed(0)
            options = {"num_inference_steps": 2, "height": SIDE, "width": SIDE, "output_type": "np"}
            images.append(pipe(**inputs, **options, generator=generator).images[0])
    assert np.isfinite(images).all()
    assert np.abs(images[0] - images[1]).max() > 1e-3


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_unet_gets_in_training_what_the_pipeline_gives_it(
    family: str, changes: Changes, data: Path, tmp_path: Path
) -> None:
    """Text, ID tokens, and with SDXL the pooled text and sizes; samples without conditions are those of guidance."""
    AcceleratorState._reset_state(reset_partial_state=True)
    others = {"condition_dropout": 0.5, "fixed_sentence": 0.0, "precision": "float32"}
    config = TrainConfig.from_yaml(RECIPES / f"{family}.yaml", changes(family, **others))
    trainer = Trainer(config, tmp_path, data=data, device="cpu", say=lambda _: None)
    cid, pipe, blank = trainer.module.cid, trainer.frozen.pipe, trainer.frozen.blank.float()
    assert isinstance(pipe, StableDiffusionXLPipeline) == (family == "sdxl")
    told = Caption("a woman on a beach", "She has green eyes, a small nose and a wide mouth.")
    examples = [replace(trainer.examples[3, index, index], prompt=told.image, faces=(told.face,)) for index in range(4)]
    assert {x.dropped for x in examples} == {True, False}
    calls: list[dict[str, Any]] = []
    pipe.unet.register_forward_pre_hook(lambda _, args, given: calls.append(given), with_kwargs=True)
    with torch.no_grad():
        trainer.module(trainer.examples.batch(examples))
    trainer.module.switch(base_alone=False)  # which ends the recording of attention
    [learnt] = calls
    for row, example in enumerate(examples):
        [reference] = example.references
        whole, *seen = trainer.frozen.features(reference["pixels"]).float()
        parts = blank.expand(len(PARTS), *blank.shape).clone()
        parts[reference["seen"]] = torch.stack(seen)
        who = Identity(reference["embedding"], whole, parts, reference["seen"], blank, trainer.frozen.provenance)
        inputs = cid.inputs(who, told.image, face_text=told.face, merge_at=0.0)
        pipe(**inputs, num_inference_steps=1, height=SIDE, width=SIDE, output_type="latent")
        fed, half = calls[-1], 0 if example.dropped else 1  # guidance comes first in a batch
        pairs = [(learnt["encoder_hidden_states"], fed["encoder_hidden_states"])]
        ours, theirs = learnt["added_cond_kwargs"], fed["added_cond_kwargs"]
        assert ours.keys() == theirs.keys()
        pairs += [(ours["image_embeds"][0], theirs["image_embeds"][0])]
        pairs += [(ours[name], theirs[name]) for name in ours if name != "image_embeds"]
        assert len(pairs) == (4 if family == "sdxl" else 2)
        for one, other in pairs:  # what frozen networks give is kept in half precision
            torch.testing.assert_close(one[row], other[half], rtol=0, atol=5e-3)
