"""Presets: the shipped ones are complete, own ones are checked, and nothing is fetched without need."""

from __future__ import annotations

import logging
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

import tiny
from consistentid.errors import CheckpointError, InputError
from consistentid.presets.loading import load_base
from consistentid.presets.network import Network
from consistentid.presets.read import load_preset, preset_names
from consistentid.presets.settings import Settings

MINIMAL: dict[str, object] = {role: f"./{role}" for role in ("base", "adapter", "image_encoder")}
MINIMAL |= {"parser": {"kind": "segformer", "path": "./parser"}, "detector": {"kind": "labels"}}
MINIMAL |= {"recogniser": {"kind": "onnx", "path": "./recogniser.onnx"}}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return path


def test_shipped_presets_are_complete() -> None:
    assert preset_names() == ["drawn", "sd15", "sd15-open", "sdxl"]
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert preset.about
        assert preset.settings.merge_at == (0.2 if name == "drawn" else 0.6)
        for role, network in preset.networks.items():
            assert network.path or network.repo or network.kind in ("labels",), role
            if network.repo:
                assert network.files, f"{name}: {role} could not be told to be present"
                assert network.megabytes > 0
                assert network.licence
            assert network.revision is None or len(network.revision) == 40
    sd15, sdxl = load_preset("sd15"), load_preset("sdxl")
    assert (sd15.settings.width, sd15.settings.height, sd15.settings.steps) == (512, 768, 50)
    assert (sdxl.settings.width, sdxl.settings.height, sdxl.settings.guidance_scale) == (864, 1152, 5.0)
    assert str(sd15.image_encoder) == str(sdxl.image_encoder) == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert str(sd15.adapter) == "JackAILab/ConsistentID/ConsistentID-v1.bin"
    assert str(sdxl.adapter) == "JackAILab/ConsistentID/ConsistentID_SDXL-v1.bin"


def test_drawn_needs_nothing_but_the_package() -> None:
    package = Path(__file__).parents[2] / "src" / "consistentid" / "weights"
    for role, network in load_preset("drawn").networks.items():
        assert not network.repo, role
        assert network.path is None or network.path.is_relative_to(package)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "preset.yaml", settings={"steps": 7}, judge={"path": "../judge.onnx", "kind": "onnx"})
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mine/preset.yaml", folder):
        preset = load_preset(name)
        assert preset.base.path == folder / "base"
        assert preset.judge is not None
        assert preset.judge.path == tmp_path / "judge.onnx"
        assert preset.settings.steps == 7
        assert preset.detector.kind == "labels"


def test_paths_from_the_root_and_from_home_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "preset.yaml", base="/models/base", adapter="~/adapter", image_encoder="me/encoder")
    preset = load_preset(tmp_path)
    assert preset.base.path == Path("/models/base")
    assert preset.adapter.path == tmp_path / "adapter"
    assert preset.image_encoder.repo == "me/encoder"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: [", "cannot be read as YAML"),
        ("just text", "a preset is a mapping of"),
        (yaml.safe_dump({**MINIMAL, "bass": 1}), "has unknown options bass; known are"),
        (yaml.safe_dump({**MINIMAL, "base": {"pth": "x"}}), "base has unknown options pth; known are kind, path, repo"),
        (yaml.safe_dump({**MINIMAL, "settings": {"step": 3}}), "settings has unknown options step"),
        (
            yaml.safe_dump({**MINIMAL, "parser": {"kind": "magic"}}),
            "parser: unknown kind 'magic'; known kinds are segf",
        ),
        (yaml.safe_dump({**MINIMAL, "settings": {"steps": 0}}), "steps=0 is not allowed; give an integer from 1"),
        (yaml.safe_dump({**MINIMAL, "same_person": float("nan")}), "same_person=nan is not allowed"),
        (yaml.safe_dump({**MINIMAL, "drawings_only": "yes, please"}), "drawings_only='yes, please' is not allowed"),
        (yaml.safe_dump({**MINIMAL, "extends": "sd16"}), "extends 'sd16', which is none; known presets are drawn"),
        (yaml.safe_dump({**MINIMAL, "extends": "faulty.yaml"}), "extends"),
        (yaml.safe_dump({"base": "./base"}), "lacks adapter, image_encoder, parser, detector, recogniser"),
    ],
)
def test_faulty_yaml_is_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "faulty.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_preset(path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_preset_extends_another_by_name_file_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/preset.yaml").write_text(
        yaml.safe_dump({"extends": "sd15", "adapter": "./", "parser": {"kind": "bisenet", "path": "parser.pth"},
                        "settings": {"steps": 20, "scale": 0.5}})
    )  # fmt: skip
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"extends": "run", "judge": None, "recogniser": {"kind": "onnx", "path": "./own.onnx"},
                        "settings": {"steps": 30}})
    )  # fmt: skip
    monkeypatch.chdir("/")
    sd15, mine = load_preset("sd15"), load_preset(tmp_path / "mine.yaml")
    assert mine.base == sd15.base
    assert mine.adapter.path == tmp_path / "run"  # relative to the file that says it
    assert mine.parser.path == tmp_path / "run/parser.pth"
    assert mine.parser.repo == ""  # networks are replaced whole
    assert mine.recogniser.path == tmp_path / "own.onnx"
    assert mine.judge is None
    assert (mine.settings.steps, mine.settings.scale) == (30, 0.5)
    assert mine.settings.guidance_scale == sd15.settings.guidance_scale
    (tmp_path / "fast.yaml").write_text("extends: mine.yaml\nscheduler: lcm\n")
    fast = load_preset(tmp_path / "fast.yaml").settings
    assert (fast.steps, fast.guidance_scale, fast.scale) == (8, 1.0, 0.5)  # as the scheduler needs, whatever was before


def test_samplers_loras_and_controlnet_in_yaml(tmp_path: Path) -> None:
    more = {"scheduler": "hyper-sd", "controlnet": "me/pose", "settings": {"guidance_scale": 2}}
    loras = [{"repo": "me/style", "files": ["a.safetensors"], "scale": 0.5}, "./own.safetensors"]
    preset = load_preset(write(tmp_path / "mine.yaml", loras=loras, **more))
    assert (preset.settings.steps, preset.settings.guidance_scale) == (8, 2)
    assert preset.controlnet is not None
    assert preset.controlnet.repo == "me/pose"
    assert [(str(lora), lora.scale) for lora in preset.loras] == [
        ("me/style/a.safetensors", 0.5), (str(tmp_path / "own.safetensors"), 1.0),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"loras\.0 has unknown options weight; known are"):
        load_preset(write(tmp_path / "wrong.yaml", loras=[{"repo": "me/style", "weight": 1}]))


def test_a_preset_says_what_differs_from_another(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run/preset.yaml"
    file.write_text("extends: drawn\nadapter: ./\njudge:\nsettings: {steps: 7}\n")
    drawn, mine = load_preset("drawn"), load_preset(tmp_path / "run")
    assert mine.name == "preset"
    assert mine.adapter.path == (tmp_path / "run").resolve()
    assert (mine.adapter.repo, mine.judge) == ("", None)
    assert mine.base == drawn.base
    assert mine.settings == drawn.settings.with_overrides(steps=7)
    (tmp_path / "mine.yaml").write_text("extends: run\nscheduler: lcm\nparser: {kind: bisenet, path: x.pth}\n")
    again = load_preset(tmp_path / "mine.yaml")
    assert again.adapter == mine.adapter  # relative to the file that names it
    assert (again.settings.steps, again.settings.guidance_scale) == (8, 1.0)  # what the scheduler needs
    assert again.parser.path == tmp_path / "x.pth"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert load_preset(tmp_path / "moved").adapter.path == (tmp_path / "moved").resolve()


def test_the_preset_that_the_manual_shows(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "pipelines.md"
    shown, extending = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "extending.yaml").write_text(extending)
    other = load_preset(tmp_path / "extending.yaml")
    assert other.base.path == tmp_path / "dreamy.safetensors"
    assert other.adapter == load_preset("sd15").adapter
    assert other.settings.steps == 25
    (tmp_path / "preset.yaml").write_text(shown)
    preset = load_preset(tmp_path)
    assert preset.base.path == tmp_path / "dreamy.safetensors"
    assert preset.base.config is not None
    assert preset.base.config.repo == load_preset("sd15").base.repo
    assert preset.settings.width == 512


def test_unknown_preset_is_answered_with_those_there_are(tmp_path: Path) -> None:
    for name in ("sd16", tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(InputError, match="known presets are drawn, sd15, sd15-open, sdxl"):
            load_preset(name)


def test_settings_are_checked() -> None:
    for wrong in (
        {"steps": 0}, {"steps": 2.5}, {"steps": True}, {"guidance_scale": math.nan}, {"merge_at": 1.1}, {"scale": -1},
        {"width": 9000}, {"height": 65}, {"batch_size": 0}, {"negative_prompt": 3}, {"steps": "9"},
        {"guidance_stop": 1.5},
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
            Settings(**wrong)  # type: ignore[arg-type]
    assert Settings().with_overrides(steps=3, scale=None) == Settings(steps=3)
    assert Settings(guidance_scale=1).record() == {
        "steps": 50, "guidance_scale": 1, "guidance_stop": 1.0, "scale": 1.0, "merge_at": 0.6, "negative_prompt": "",
    }  # fmt: skip


def test_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").touch()
    preset = load_preset("sd15").override(base="own.safetensors", adapter="me/mine/x.bin", parser="a/b", steps=4)
    assert preset.base.path == tmp_path / "own.safetensors"
    assert (preset.adapter.repo, preset.adapter.files) == ("me/mine", ("x.bin",))
    assert (preset.parser.repo, preset.parser.kind) == ("a/b", "bisenet")
    assert preset.settings == load_preset("sd15").settings.with_overrides(steps=4)
    few = preset.override(scheduler="lcm", steps=6, loras=["own.safetensors:0.5", "a/b/c.safetensors", "a/b"])
    assert (few.settings.steps, few.settings.guidance_scale) == (6, 1.0), "what is said outranks what the sampler needs"
    assert [(str(lora), lora.scale) for lora in few.loras] == [
        (str(tmp_path / "own.safetensors"), 0.5), ("a/b/c.safetensors", 1.0), ("a/b", 1.0),
    ]  # fmt: skip
    assert "lora 2" in few.networks
    assert preset.override(controlnet="a/b").networks["controlnet"].repo == "a/b"
    drawn = load_preset("drawn")
    other = drawn.override(parser="a/b/own.onnx").parser
    assert (other.kind, other.options) == ("onnx", drawn.parser.options), "a file of its kind is read as its kind is"
    assert other.options["mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(InputError, match="has no setps; it has detector,"):
        load_preset("sd15").override(setps=4)
    for wrong in ("absent.safetensors", "./absent/file.bin", "a//b"):
        with pytest.raises(InputError, match="no such file or folder; give a path, owner/name"):
            load_preset("sd15").override(base=wrong)


def test_networks_are_found_in_the_hub_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    revision = "a" * 40
    snapshot = tmp_path / "models--me--mine" / "snapshots" / revision
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "unet" / "weights.bin").touch()
    (snapshot / "single.bin").touch()

    def mine(*files: str) -> Network:
        return Network(repo="me/mine", revision=revision, files=files)

    assert mine("unet/weights.bin", "single.bin").find() == snapshot
    assert mine("single.bin").find() == snapshot / "single.bin"
    assert mine("single.bin").fetch() == snapshot / "single.bin"
    assert mine("single.bin", "other.bin").find() is None
    other = Network(repo="me/other", files=("single.bin",))
    assert other.find() is None
    with pytest.raises(CheckpointError, match=r"^me/other/single\.bin: offline: HF_HUB_OFFLINE is set[^\n]*$"):
        other.fetch()


def test_missing_local_weights(tmp_path: Path) -> None:
    missing = Network(path=tmp_path / "absent")
    assert missing.find() is None
    with pytest.raises(CheckpointError, match="absent: no such weights; correct the preset"):
        missing.fetch()
    assert Network(repo="a/b", revision="main", variant="fp16").pretrained == (
        "a/b",
        {"revision": "main", "variant": "fp16"},
    )


def test_a_model_pack_that_was_half_unpacked_is_named_with_what_to_delete(tmp_path: Path) -> None:
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    (pack / "1k3d68.onnx").write_bytes(b"")
    network = Network(kind="insightface", path=pack / "det_10g.onnx")
    with pytest.raises(CheckpointError, match=r"buffalo_l: is incomplete, it lacks det_10g\.onnx; delete that folder"):
        network.fetch()


def test_a_base_in_pickles_is_loaded_without_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "preset"
    shutil.copytree(tiny.preset(), folder)
    pipe = DiffusionPipeline.from_pretrained(folder / "base")
    shutil.rmtree(folder / "base")
    pipe.save_pretrained(folder / "base", safe_serialization=False)
    assert not list((folder / "base" / "unet").glob("*.safetensors"))
    for library in ("diffusers", "transformers"):
        monitored = logging.getLogger(library)
        monitored.addHandler(caplog.handler)
    try:
        load_base(load_preset(folder), 32, torch.float32)
    finally:
        for library in ("diffusers", "transformers"):
            logging.getLogger(library).removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_mtcnn_is_refused_in_words(tmp_path: Path) -> None:
    preset = yaml.safe_load((tiny.preset() / "preset.yaml").read_text())
    preset["detector"] = {"kind": "mtcnn", "path": "./mtcnn"}
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset))
    with pytest.raises(InputError, match=r"detector: unknown kind 'mtcnn' \(a cascade of three networks\); known"):
        load_preset(tmp_path)
