"""Every network of a micro recipe, trained in order by the commands of recipes/README.md, and used as its users do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
)

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.drawn.scene_reader import FACTORS, SceneReader
from consistentid.errors import CheckpointError
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.faces.parts import LABELS
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.nn.patch_autoencoder import PatchAutoencoderKL
from consistentid.training.drawn.__main__ import NETWORKS, main

MICRO = Path(__file__).with_name("micro.yaml")
FULL = Path(__file__).parents[3] / "recipes" / "drawn.yaml"
ORDER = (
    "pictures", "autoencoder", "clip", "recogniser", "teacher", "judge", "scene_reader", "parser", "decoder", "unet"
)  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


def merged(full: Any, micro: Any, where: str = "") -> Any:
    """The full recipe with the values of the micro one; networks as a whole, since their arguments belong together."""
    if not isinstance(micro, dict) or where == "network":
        return micro
    return {**full, **{key: merged(full.get(key, {}), value, key) for key, value in micro.items()}}


def command(network: str, out: Path) -> None:
    recipe = out / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merged(yaml.safe_load(FULL.read_text()), yaml.safe_load(MICRO.read_text()))))
    result = CliRunner().invoke(main, [str(recipe), network, "--out", str(out)], standalone_mode=False)
    if result.exception:
        raise result.exception


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stack")
    for network in ORDER:
        command(network, out)
    return out


@pytest.fixture(scope="module")
def portrait() -> tuple[Image.Image, np.ndarray]:
    """A picture of 32 pixels, and its landmarks."""
    drawn = draw(sample_people(1, split="test"), sample_scenes([(0, 5)], split="test"), 32)
    picture = (drawn.images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(picture), drawn.landmarks[0].numpy()


def figures(out: Path, network: str) -> dict[str, float]:
    report: dict[str, float] = json.loads((out / f"{network}.report.json").read_text())
    assert all(np.isfinite(value) for value in report.values())
    return report


def test_all_networks_are_there() -> None:
    assert set(NETWORKS) == {*ORDER, "package"}


def test_autoencoder(trained: Path, portrait) -> None:
    vae = PatchAutoencoderKL.from_pretrained(trained / "vae").float().eval()
    x = torch.from_numpy(np.array(portrait[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        back = vae.decode(z).sample
    assert z.shape == (1, 4, 4, 4)
    assert (back - x).abs().mean() < 0.3
    report = figures(trained, "decoder")
    assert 0 < report["mean_absolute_error"] < 0.3
    assert vae.config.scaling_factor == pytest.approx(1 / report["latent_std"], rel=0.02)


def test_clip(trained: Path, portrait) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(trained / "tokenizer")
    text = CLIPTextModelWithProjection.from_pretrained(trained / "text_encoder").float()
    vision = CLIPVisionModelWithProjection.from_pretrained(trained / "image_encoder").float()
    processor = CLIPImageProcessorPil.from_pretrained(trained / "image_encoder")
    ids = tokenizer(["a woman", "a man in a red hat"], padding=True, return_tensors="pt").input_ids
    pixels = processor(portrait[0].resize((80, 80)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 32, 32)
    with torch.no_grad():
        assert text(input_ids=ids).text_embeds.shape == (2, 16)
        assert vision(pixel_values=pixels).image_embeds.shape == (1, 16)
    assert set(figures(trained, "clip")) == {
        "text_to_image_top1_of_256",
        "image_to_text_top1_of_256",
        "text_to_image_top5_of_256",
    }


def test_parser(trained: Path, portrait) -> None:
    parser = SegformerForSemanticSegmentation.from_pretrained(trained / "parser").float()
    processor = SegformerImageProcessorPil.from_pretrained(trained / "parser")
    with torch.no_grad():
        logits = parser(**processor(portrait[0], return_tensors="pt")).logits
    assert logits.shape[:2] == (1, 19)
    assert list(parser.config.id2label.values()) == list(LABELS)
    assert set(figures(trained, "parser")) == {"mean_iou", *(f"iou_{name}" for name in LABELS)}


@pytest.mark.parametrize("name", ["recogniser", "teacher", "judge"])
def test_recognisers(trained: Path, portrait, name: str) -> None:
    vector = OnnxRecogniser(trained / f"{name}.onnx").embed(*portrait)
    assert vector.shape == (512,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    report = figures(trained, name)
    assert 0 <= report["tar_at_far_0.1_percent"] <= report["tar_at_far_1_percent"] <= 1
    assert not list(trained.glob("*.single.onnx"))


def test_gradients_flow_through_the_teacher(trained: Path) -> None:
    faces = torch.rand(2, 3, 112, 112, requires_grad=True)
    DifferentiableOnnx(trained / "teacher.onnx")(faces).square().sum().backward()
    assert faces.grad is not None
    assert faces.grad.any()


def test_recogniser_and_judge_differ(trained: Path, portrait) -> None:
    a, b = (OnnxRecogniser(trained / f"{name}.onnx").embed(*portrait) for name in ("recogniser", "judge"))
    assert abs(float(a @ b)) < 0.5


def test_scene_reader(trained: Path, portrait) -> None:
    values = SceneReader(trained / "scene_reader.onnx").read([portrait[0]] * 3)
    assert values.shape == (3, len(FACTORS))
    assert (values == values[0]).all()
    assert set(figures(trained, "scene_reader")) == set(FACTORS)


def test_base(trained: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(trained / "base", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a woman in a red hat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert figures(trained, "unet")["held_out_loss"] > 0


def test_everything_is_stored_in_half_precision(trained: Path) -> None:
    from safetensors.torch import load_file

    files = sorted(trained.rglob("*.safetensors"))
    assert len(files) == 7  # vae, text and image encoder, parser, and in base the UNet, autoencoder and text encoder
    for path in files:
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}, path


def test_again_trains_nothing(trained: Path) -> None:
    names = ("clip", "parser", "unet")
    logs = {name: (trained / f"{name}.jsonl").read_text() for name in names}
    for name in names:
        command(name, trained)
        assert (trained / f"{name}.jsonl").read_text() == logs[name]


def test_package(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no adapter yet; train them first"):
        command("package", trained)
    shutil.copytree(trained, tmp_path / "out")
    (tmp_path / "out/adapter").mkdir()
    (tmp_path / "out/adapter/config.json").write_text('{"tokens": 4}')
    (tmp_path / "out/adapter/model.safetensors").write_bytes(b"")
    (tmp_path / "out/adapter/checkpoint-3").mkdir()
    command("package", tmp_path / "out")
    drawn = tmp_path / "out/drawn"
    assert {p.name for p in drawn.iterdir()} == {
        "base", "image_encoder", "parser", "adapter", "recogniser.onnx", "judge.onnx", "scene_reader.onnx",
        "reports.json", "recipe.yaml"
    }  # fmt: skip
    assert set(json.loads((drawn / "reports.json").read_text())) == {
        "decoder", "clip", "parser", "recogniser", "teacher", "judge", "scene_reader", "unet"
    }  # fmt: skip
    assert (drawn / "recipe.yaml").read_text() == (trained / "recipe.yaml").read_text()
    config = json.loads((drawn / "adapter/config.json").read_text())
    assert config["tokens"] == 4
    assert set(config["networks"]) == {"recogniser", "image_encoder", "parser"}
    assert StableDiffusionPipeline.from_pretrained(drawn / "base").vae.config.latent_channels == 4
