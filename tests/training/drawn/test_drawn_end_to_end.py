"""Every network of a micro recipe, trained in order by the commands of recipes/README.md, and used as its users do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from click.testing import CliRunner, Result
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load, load_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from consistentid.drawn.autoencoder import ConvAutoencoderKL
from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.drawn.scene_reader import FACTORS, VALUES, SceneReader
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.faces.parsing import FaceParser
from consistentid.faces.parts import LABELS
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.presets.loading import TEXT_PROJECTION
from consistentid.training.drawn.__main__ import main
from consistentid.training.drawn.loop import REPORT, stage_folder
from consistentid.training.drawn.recipe import OPTIONS, Recipe
from consistentid.training.drawn.stages import BY_NAME, STAGES, Stage
from consistentid.training.log import LOG
from consistentid.training.recipe import ADAPTER, COMMON, NETWORKS, SECTIONS
from consistentid.training.stopping import Stopped

MICRO = Path(__file__).with_name("micro.yaml")
FULL = Path(__file__).parents[3] / "recipes" / "drawn.yaml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]


def merged(full: Any, micro: Any, where: str = "") -> Any:
    """The full recipe with the values of the micro one; networks as a whole, since their arguments belong together."""
    if not isinstance(micro, dict) or where == "network":
        return micro
    return {**full, **{key: merged(full.get(key, {}), value, key) for key, value in micro.items()}}


def recipe_of(out: Path) -> Path:
    recipe = out.parent / f"{out.name}.yaml"
    recipe.write_text(yaml.safe_dump(merged(yaml.safe_load(FULL.read_text()), yaml.safe_load(MICRO.read_text()))))
    return recipe


def command(stage: str, out: Path, *options: str) -> Result:
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = recipe_of(out)
    result = CliRunner().invoke(main, [str(recipe), stage, "--out", str(out), "--device", "cpu", *options])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All in one line, stopped in the middle, and once more."""
    out = tmp_path_factory.mktemp("stack")
    run = Stage.run

    def stopped(stage: Stage, recipe: Recipe, folder: Path, device: torch.device) -> None:
        if stage.name == "parser":
            raise Stopped("parser stopped after step 1; the same line goes on from there")
        run(stage, recipe, folder, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "run", stopped)
        result = command("all", out)
    assert result.exit_code == 130
    assert "parser stopped after step 1" in result.stderr
    assert [line for line in result.stdout.splitlines() if ": done in" in line][-1].startswith("scene_reader: done in")
    result = command("all", out)
    assert result.exit_code == 0, result.output
    assert "scene_reader: was done in" in result.stdout
    assert "parser: done in" in result.stdout
    return out


@pytest.fixture(scope="module")
def portrait() -> tuple[Image.Image, np.ndarray]:
    """A picture of 32 pixels, and its landmarks."""
    drawn = draw(sample_people(1, split="test"), sample_scenes([(0, 5)], split="test"), 32)
    picture = (drawn.images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(picture), drawn.landmarks[0].numpy()


def figures(out: Path, network: str) -> dict[str, float]:
    report: dict[str, float] = json.loads((stage_folder(out, network) / REPORT).read_text())
    assert all(np.isfinite(value) for value in report.values())
    return report


def test_all_networks_are_there() -> None:
    content = yaml.safe_load(FULL.read_text())
    assert set(content) - set(COMMON) == {*NETWORKS, ADAPTER} == set(SECTIONS) - set(COMMON)
    assert {*NETWORKS, ADAPTER, "pictures", "package"} == set(BY_NAME)
    assert set(OPTIONS) <= set(NETWORKS)


def test_each_stage_comes_after_those_that_it_needs() -> None:
    for place, stage in enumerate(STAGES):
        assert set(stage.needs) <= {other.name for other in STAGES[:place]}


def test_autoencoder(trained: Path, portrait) -> None:
    vae = ConvAutoencoderKL.from_pretrained(trained / "vae").float().eval()
    x = torch.from_numpy(np.array(portrait[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        back = vae.decode(z).sample
    assert z.shape == (1, 4, 4, 4)
    assert back.shape == x.shape
    for stage in ("autoencoder", "decoder"):
        report = figures(trained, stage)
        assert 0 < report["mean_absolute_error"] < 1
        assert report["latent_std"] == pytest.approx(1, rel=0.2)
    log = (stage_folder(trained, "decoder") / LOG).read_text()
    assert "critic/loss" in log


def test_a_decoder_learns_on(trained: Path, tmp_path: Path) -> None:
    """With more layers, on latents that the base has made, for likeness; the encoder stays."""
    out = tmp_path / "on"
    out.mkdir()
    (out / "cache").symlink_to(trained / "cache")
    shutil.copytree(trained / "vae", out / "vae")
    options = {"layers": "[2, 1, 1]", "base": trained / "base", "redrawn_share": 0.5, "identity": 0.2}
    options["recognisers"] = f"[{trained / 'teacher.onnx'}]"
    changes = [word for name, value in options.items() for word in ("--set", f"decoder.options.{name}={value}")]
    result = command("decoder", out, *changes)
    assert result.exit_code == 0, result.output
    before, after = (ConvAutoencoderKL.from_pretrained(folder / "vae") for folder in (trained, out))
    assert list(after.config.decoder_layers) == [2, 1, 1]
    for name, x in before.encoder.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], x), name
    assert not torch.equal(after.decoder.conv_out.weight, before.decoder.conv_out.weight)
    row = json.loads((stage_folder(out, "decoder") / LOG).read_text().splitlines()[-1])
    assert 0 < row["identity"] < 2


def test_latents_get_channels_for_details(trained: Path, tmp_path: Path) -> None:
    """The others stay as they are, and so does what a UNet knows of them."""
    out = tmp_path / "finer"
    out.mkdir()
    for name in ("text_encoder", "tokenizer", "cache"):
        (out / name).symlink_to(trained / name)
    network = {"latent_channels": 6, "detail_channels": 2, "detail_widths": "[8, 8, 8]", "detail_layers": "[0, 1, 1]"}
    changes = [f"autoencoder.network.{name}={value}" for name, value in network.items()]
    changes += [f"autoencoder.options.init={trained / 'vae'}", f"unet.options.init={trained / 'base'}"]
    changes += ["unet.schedule.steps=1", "unet.schedule.lr=1e-9", "unet.options.scene_weight=0"]
    for stage in ("autoencoder", "unet"):
        result = command(stage, out, *(word for change in changes for word in ("--set", change)))
        assert result.exit_code == 0, result.output
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    before, after = (ConvAutoencoderKL.from_pretrained(folder / "vae").float().eval() for folder in (trained, out))
    z = after.encode(x).latent_dist.mean
    assert z.shape == (2, 6, 4, 4)
    torch.testing.assert_close(z[:, :4], before.encode(x).latent_dist.mean)
    assert figures(out, "autoencoder")["latent_std"] == pytest.approx(1, rel=0.2)
    own, known = (load_file(folder / "base/unet/diffusion_pytorch_model.safetensors") for folder in (out, trained))
    torch.testing.assert_close(own["conv_in.weight"][:, :4], known["conv_in.weight"], rtol=1e-3, atol=1e-6)
    assert own["conv_out.weight"].shape == (6, *known["conv_out.weight"].shape[1:])
    assert not own["conv_out.weight"][4:].any()


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
    parser = FaceParser.onnx(trained / "parser.onnx", mean=[0.5] * 3, std=[0.5] * 3)
    labels = parser.parse_batch([portrait[0]] * 2)
    assert parser.size == 32
    assert labels[0].shape == portrait[0].size[::-1]
    assert np.array_equal(labels[0], labels[1])
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


def test_latent_reader(trained: Path) -> None:
    vae = ConvAutoencoderKL.from_pretrained(trained / "vae").float()
    z = vae.encode(torch.zeros(2, 3, 32, 32)).latent_dist.mean.detach() * vae.config.scaling_factor
    z.requires_grad_(True)
    logits = DifferentiableOnnx(trained / "latent_reader.onnx")(z)
    assert logits.shape == (2, VALUES)
    logits[:, 0].sum().backward()
    assert z.grad.abs().sum() > 0
    assert set(figures(trained, "latent_reader")) == set(FACTORS)


def words(folder: Path) -> torch.Tensor:
    """A weight of a text encoder, with or without projection."""
    weights = load_file(folder / "model.safetensors")
    [name] = [x for x in weights if x.removeprefix("text_model.") == "encoder.layers.0.mlp.fc1.weight"]
    return weights[name].float()


def test_words_learn_along_with_the_base(trained: Path, tmp_path: Path) -> None:
    """And without being asked to, they do not; whole texts stay where the image encoder knows them."""
    before, after = words(trained / "text_encoder"), words(trained / "base/text_encoder")
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, before, rtol=0, atol=0.05)
    row = json.loads((trained / "stages/unet/log.jsonl").read_text().splitlines()[-1])
    assert {"noise", "scene", "moved"} <= set(row)
    assert row["moved"] < 0.1
    out = tmp_path / "fixed"
    out.mkdir()
    for name in ("vae", "text_encoder", "tokenizer", "latent_reader.onnx", "cache"):
        (out / name).symlink_to(trained / name)
    result = command("unet", out, "--set", "unet.options.train_text_encoder=false", "--set", "unet.schedule.steps=1")
    assert result.exit_code == 0, result.output
    assert torch.equal(words(out / "base/text_encoder"), before)


def test_a_unet_goes_on_from_another(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "on"
    out.mkdir()
    for name in ("vae", "text_encoder", "tokenizer", "latent_reader.onnx", "cache"):
        (out / name).symlink_to(trained / name)
    options = ["--set", "unet.schedule.steps=1", "--set", "unet.schedule.lr=1e-9"]
    result = command("unet", out, *options, "--set", f"unet.options.init={trained / 'base'}")
    assert result.exit_code == 0, result.output
    own, before = (load_file(folder / "base/unet/diffusion_pytorch_model.safetensors") for folder in (out, trained))
    for name, x in before.items():
        torch.testing.assert_close(own[name], x, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(words(out / "base/text_encoder"), words(trained / "base/text_encoder"))
    for wrong, message in (
        ({"init": trained / "vae"}, "holds no base"),
        ({"init": trained / "base", "network": "{norm_num_groups: 4, block_out_channels: [16, 16]}"}, "another "),
    ):
        (out / "stages/unet").rename(tmp_path / message.strip())
        given = ["--set", f"unet.options.init={wrong['init']}"]
        given += ["--set", "unet.network.block_out_channels=[16, 16]"] if "network" in wrong else []
        result = command("unet", out, *options, *given)
        assert result.exit_code == 2, result.output
        assert f"options.init of the UNet: {wrong['init']}" in result.stderr
        assert message in result.stderr


def test_base(trained: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(trained / "base", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a woman in a red hat", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (32, 32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.timestep_spacing == "trailing"  # the first step sees nothing but noise
    assert figures(trained, "unet")["held_out_loss"] > 0


def test_everything_is_stored_in_half_precision(trained: Path) -> None:
    names = ("vae", "text_encoder", "image_encoder", "base", "drawn")
    files = [path for name in names for path in (trained / name).rglob("*.safetensors")]
    assert len(files) == 13  # the UNet among them, and all that is packed
    for path in files:
        assert {t.dtype for t in load_file(path).values() if t.is_floating_point()} == {torch.float16}, path


def test_again_trains_nothing(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    for line in ("all", "unet"):
        result = command(line, trained)
        assert "unet: was done in" in result.stdout
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} == set()


def test_what_is_gone_is_made_again_and_nothing_else(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    (tmp_path / "out/parser.onnx").unlink()
    assert "parser: done in" in command("parser", tmp_path / "out").stdout
    logs = [(stage_folder(out, "parser") / LOG).read_text() for out in (trained, tmp_path / "out")]
    assert logs[0] == logs[1]
    one, two = ((folder / "parser.onnx").read_bytes() for folder in (trained, tmp_path / "out"))
    assert one == two


def test_another_recipe_does_not_go_on_in_the_folder(trained: Path) -> None:
    result = command("parser", trained, "--set", "parser.schedule.lr=1e-4")
    assert result.exit_code == 2
    assert "holds another parser, with parser.schedule.lr 0.002 instead of 0.0001" in result.stderr
    result = command("unet", trained, "--set", "clip.options.vocabulary=700")
    assert result.exit_code == 2
    assert "holds another unet, with its clip" in result.stderr


def test_options_that_nobody_knows_are_refused(trained: Path, tmp_path: Path) -> None:
    for change, message in (
        ("clip.network.text.hiden_size=8", "clip: network.text has unknown hiden_size; CLIPTextConfig knows"),
        ("parser.network.deepths=[1]", "parser: network has unknown deepths; ParserNetwork knows"),
        ("judge.network.hiden_sizes=[1]", "the network of kind convnextv2 has unknown hiden_sizes"),
        ("judge.network.kind=convnextv9", "a network of kind 'convnextv9' is unknown"),
        ("unet.options.scheduler.beta=1", "unet: options.scheduler has unknown beta; DDPMScheduler knows"),
        ("unet.network.layers=1", "unet: network has unknown layers; UNet2DConditionModel knows"),
        ("autoencoder.network.layers=1", "autoencoder: network has unknown layers; ConvAutoencoderKL knows"),
        ("decoder.options.nois=1", "decoder.options has unknown options nois; known are noise"),
        ("parser.options.noise=1", "parser has options, and none are known"),
        ("parser.shedule.lr=1", "parser has unknown options shedule; known are network, schedule, options"),
        ("pictures.train.peple=1", "pictures.train has unknown options peple; known are people"),
        ("pictures.train.size=64", "pictures.train has size, which stands elsewhere"),
        ("schedule.lr=1", "unknown sections schedule; known are size, precision"),
        ("precision=half", "precision='half' is not allowed; give one of auto, float32, bfloat16"),
        ("unet.schedule.clip=.nan", "unet.schedule.clip=nan is not allowed"),
    ):
        out = tmp_path / change
        for name in ("cache", "vae", "tokenizer", "text_encoder"):
            out.mkdir(exist_ok=True)
            (out / name).symlink_to(trained / name)
        section = change.split(".")[0]
        result = command(section if section in BY_NAME and section != "pictures" else "parser", out, "--set", change)
        assert result.exit_code == 2, (change, result.output)
        assert message in result.stderr


def test_package(trained: Path, tmp_path: Path) -> None:
    drawn = trained / "drawn"
    assert {p.name for p in drawn.iterdir()} == {
        "base", "image_encoder", "adapter", "recogniser.onnx", "judge.onnx", "scene_reader.onnx", "parser.onnx",
        "reports.json", "recipe.yaml"
    }  # fmt: skip
    reports = json.loads((drawn / "reports.json").read_text())
    assert set(reports) == {stage.name for stage in STAGES if stage.name != "package"}
    assert all(0 < report["seconds"] < 600 and report["processes"] == 1 for report in reports.values())
    assert reports["clip"]["text_to_image_top1_of_256"] >= 0
    assert (drawn / "recipe.yaml").read_text() == (trained.parent / f"{trained.name}.yaml").read_text()
    config = json.loads((drawn / "adapter/config.json").read_text())
    assert config["facial_dim"] == 32
    assert set(config["networks"]) == {"recogniser", "image_encoder", "parser"}
    assert StableDiffusionPipeline.from_pretrained(drawn / "base").vae.config.latent_channels == 4
    (projection,) = {
        (base / "text_encoder" / TEXT_PROJECTION).read_bytes()
        for base in (trained / "base", trained / "adapter/base", drawn / "base")
    }
    known = load_file(trained / "text_encoder/model.safetensors")["text_projection.weight"]
    assert torch.equal(load(projection)["text_projection.weight"], known)
    shutil.copytree(trained, tmp_path / "out")
    for base in ("adapter/base", "base"):
        (tmp_path / "out" / base / "text_encoder" / TEXT_PROJECTION).unlink()
    result = command("package", tmp_path / "out")
    assert result.exit_code == 0  # it is done, whatever became of what it was made from
    shutil.rmtree(tmp_path / "out/drawn")
    result = command("package", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{TEXT_PROJECTION} is missing" in result.stderr
    shutil.rmtree(tmp_path / "out/adapter")
    result = command("package", tmp_path / "out")
    assert result.exit_code == 2
    assert "has no adapter yet; train them first" in result.stderr


def test_all_in_two_processes_that_are_killed(tmp_path: Path) -> None:
    """The line of `make weights`: both processes agree on what is done, draw once, and write once."""
    out = tmp_path / "run"
    recipe = recipe_of(out)
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29541", "-m"]
    line += ["consistentid.training.drawn", str(recipe), "all", "--out", str(out), "--device", "cpu", "--workers", "2"]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 500
        while not stage_folder(out, "judge").exists():
            assert child.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for pid in [x.pid for x in psutil.Process(child.pid).children(recursive=True)] + [child.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()
    again = subprocess.run(line, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0, again.stderr
    told = [x for x in again.stdout.splitlines() if "done in" in x]
    assert [x.partition(":")[0] for x in told] == [stage.name for stage in STAGES]
    assert told[0].startswith("pictures: was done")
    reports = json.loads((out / "drawn/reports.json").read_text())
    assert {report["processes"] for report in reports.values()} == {2}
