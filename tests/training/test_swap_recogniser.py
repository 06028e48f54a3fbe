"""An adapter is moved to another recogniser: its tokens of the new one become those of the old one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import micro
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import tiny
from consistentid.adapter.adapter import ConsistentID
from consistentid.errors import CheckpointError, InputError
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.weights import fingerprint
from consistentid.pipeline.pipeline import ConsistentIDPipeline

OLD = "recogniser.onnx"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recogniser with other weights: its embeddings tell people apart just as well, in another space."""
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    model = onnx.load(tiny.preset() / OLD)
    (weight,) = model.graph.initializer
    values = np.random.default_rng(7).standard_normal(numpy_helper.to_array(weight).shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, "weight"))
    onnx.save(model, path)
    return path


def options(other: Path, **changes: Any) -> dict[str, Any]:
    section = {
        "init": "preset", "spec": {}, "networks": {"recogniser": str(other)}, "trained": ["image_projection"],
        "distilled_recogniser": str(tiny.preset() / OLD), "same_picture": 1.0, "condition_dropout": 0.1,
        "schedule": {"steps": 150, "batch": 8, "lr": 3e-3},
    }  # fmt: skip
    return section | changes


@pytest.mark.slow
def test_the_tokens_of_the_new_recogniser_become_those_of_the_old(other: Path, tmp_path: Path) -> None:
    training = micro.trainer(tmp_path / "run", tmp_path / "cache", **options(other))
    before = {name: x.clone() for name, x in training.module.cid.state_dict().items()}
    assert training.train()
    losses = [json.loads(line)["tokens"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert np.mean(losses[-10:]) < 0.1 * losses[0], "what was learnt is on these few pictures"
    assert all("noise" not in line for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())

    moved = ConsistentID.from_pretrained(tmp_path / "run")
    assert moved.spec.networks["recogniser"] == fingerprint(other)
    changes = {name: float((x.float() - before[name].float()).abs().max()) for name, x in moved.state_dict().items()}
    kept = [change for name, change in changes.items() if not name.startswith("image_projection.")]
    assert max(kept) < 1e-3, "but for half precision nothing else has changed"
    assert max(changes.values()) > 1e-2

    # the preset of the run identifies with the new recogniser, and its tokens are the old adapter's
    studio = ConsistentIDPipeline.from_preset(tmp_path / "run", device="cpu")
    assert studio.identify(tiny.portrait()).provenance["recogniser"] == fingerprint(other)
    picture = training.source[0]
    image, marks = tiny.Image.fromarray(picture.pixels), picture.landmarks
    assert marks is not None
    sights = [OnnxRecogniser(path).embed(image, marks) for path in (tiny.preset() / OLD, other)]
    old, new = (torch.from_numpy(x)[None] for x in sights)
    face = training.examples.batch([training.examples[(0, 0, 0)]]).face[0]
    original = ConsistentID.from_pretrained(tiny.preset() / "adapter")
    with torch.no_grad():
        taught = original.id_tokens(old, face)
        right, unmoved = moved.id_tokens(new, face), original.id_tokens(new, face)
    assert (right - taught).norm() < 0.5 * (unmoved - taught).norm()


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(other: Path, tmp_path: Path) -> None:
    short = options(other, schedule={"steps": 4, "batch": 4})
    whole = micro.trainer(tmp_path / "whole", tmp_path / "cache", **short)
    whole.train()
    halves = micro.trainer(tmp_path / "halves", tmp_path / "cache", **short)
    for step in range(2):
        with halves._batches() as batches:
            halves._one_step([next(batches)])
        halves.step = step + 1
    halves._save()
    again = micro.trainer(tmp_path / "halves", tmp_path / "cache", **short)
    assert again.step == 2
    again.train()
    a, b = (ConsistentID.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(a[name], b[name]) for name in a), "the taught tokens are those of the first start"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": ["image_projection", "lora"]}, "teaches the image projection alone, and trained is"),
        ({"init": None, "spec": micro.SPEC}, "distilled_recogniser needs init"),
        ({"identity_weight": 1.0}, "identity_weight must be 0"),
        ({"scene_weight": 1.0, "latent_reader": "reader.onnx"}, "scene_weight must be 0"),
        ({"company_share": 0.5, "groups": [{"people": 2, "scenes": 1, "together": 2}]}, "company_share must be 0"),
        ({"networks": {}}, "is the preset's own recogniser"),
    ],
)
def test_what_does_not_go_together_is_said(other: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        micro.trainer(tmp_path / "run", tmp_path / "cache", **options(other, **changes))


def test_another_recogniser_than_the_weights_know_teaches_nothing(other: Path, tmp_path: Path) -> None:
    third = tmp_path / "third.onnx"
    shutil.copy(other, third)
    changed = onnx.load(third)
    changed.doc_string = "another"
    onnx.save(changed, third)
    with pytest.raises(InputError, match=r"is third@.*, and the initial weights know recogniser@"):
        micro.trainer(tmp_path / "run", tmp_path / "cache", **options(other, distilled_recogniser=str(third)))


def test_a_recogniser_of_another_width_is_refused(other: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.onnx"
    model = onnx.load(other)
    (weight,) = model.graph.initializer
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[:, :128].copy(), "weight"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 128
    onnx.save(model, narrow)
    with pytest.raises(CheckpointError, match="makes embeddings of 128 numbers, and the adapter takes 512"):
        micro.trainer(tmp_path / "run", tmp_path / "cache", **options(narrow))
