"""From a photo and a prompt to portraits, with tiny networks of the real classes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil

import tiny
from consistentid.errors import (
    CheckpointError,
    FaceError,
    ImageError,
    IncompatibleIdentityError,
    InputError,
    NoFaceError,
    PromptTooLongError,
    SeveralFacesError,
)
from consistentid.faces.provenance import fingerprint
from consistentid.identity import Identity
from consistentid.pipeline import ConsistentIDPipeline, _provenance, resolve_device, resolve_dtype
from consistentid.presets import Network

PROMPT = "a woman in a red hat"


@pytest.fixture(scope="module")
def preset() -> Path:
    return tiny.preset()


@pytest.fixture(scope="module")
def studio(preset: Path) -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(preset, device="cpu")


@pytest.fixture(scope="module")
def who(studio: ConsistentIDPipeline) -> Identity:
    return studio.identify(tiny.portrait())


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


# ------------------------------------------------------------------------------------------------------------ identify


def test_a_photo_may_be_a_path_or_a_picture(studio: ConsistentIDPipeline, who: Identity, tmp_path: Path) -> None:
    tiny.portrait().save(tmp_path / "ada.png")
    for photo in (tmp_path / "ada.png", str(tmp_path / "ada.png"), tiny.portrait().convert("RGBA")):
        again = studio.identify(photo)
        assert torch.equal(again.embedding, who.embedding)
        assert torch.equal(again.part_features, who.part_features)
    assert who.visible_parts == ("face", "eyes", "ears", "nose", "mouth")
    assert who.embedding.norm() == pytest.approx(1)
    assert dict(who.provenance) == {**studio.adapter.spec.networks, "part_layout": "square"}


def test_several_photos_are_combined(studio: ConsistentIDPipeline, who: Identity) -> None:
    other = studio.identify(tiny.portrait(9))
    both = studio.identify(tiny.portrait(), tiny.portrait(9))
    for single in (who, other):
        assert single.embedding @ other.embedding < both.embedding @ single.embedding < 1 or single is other
    assert not torch.equal(both.embedding, who.embedding)


def test_faces_are_counted_and_chosen(studio: ConsistentIDPipeline, who: Identity) -> None:
    empty, two = tiny.draw()[0], tiny.draw((40, 60), (190, 58), size=(256, 128))[0]
    with pytest.raises(NoFaceError, match="no face found in picture 1; use a picture"):
        studio.identify(empty)
    with pytest.raises(SeveralFacesError, match="2 faces found in picture 2; choose one by its index"):
        studio.identify(tiny.portrait(), two)
    chosen = [studio.identify(two, face_index=index) for index in (0, 1)]
    assert not torch.equal(chosen[0].part_features, chosen[1].part_features)
    with pytest.raises(InputError, match="no face 2 in picture 1; its faces are numbered 0 to 1"):
        studio.identify(two, face_index=2)
    with pytest.raises(InputError, match="at least one"):
        studio.identify()
    with pytest.raises(ImageError, match="picture 1: is 8x8 pixels, too small"):
        studio.identify(Image.new("RGB", (8, 8)))


def test_a_stranger_among_the_photos_is_named(studio: ConsistentIDPipeline) -> None:
    stranger = Image.fromarray(255 - np.asarray(tiny.portrait()))
    assert issubclass(FaceError, Exception)
    with pytest.raises(FaceError):
        studio.identify(tiny.portrait(), tiny.portrait(9), stranger)


# ------------------------------------------------------------------------------------------------------------ generate


def test_every_picture_can_be_made_again_alone(studio: ConsistentIDPipeline, who: Identity) -> None:
    """Three pictures in batches of two: neither the batch nor its neighbours change a picture."""
    out = studio(who, PROMPT, num_images_per_prompt=3, seed=7)
    assert out.seeds == [7, 8, 9]
    assert out.withheld == [False] * 3
    assert {image.size for image in out.images} == {(64, 64)}
    assert difference(out.images[0], out.images[1]) > 20
    for seed, image in zip(out.seeds, out.images, strict=True):
        assert difference(studio(who, PROMPT, seed=seed).images[0], image) <= 1
    assert studio(who, PROMPT, num_images_per_prompt=2, seed=2**32 - 1).seeds == [2**32 - 1, 0]
    assert studio(who, PROMPT).seeds != studio(who, PROMPT).seeds


def test_every_setting_reaches_the_picture(studio: ConsistentIDPipeline, who: Identity) -> None:
    def make(person: Identity = who, prompt: str = PROMPT, **settings: object) -> Image.Image:
        return studio(person, prompt, seed=1, **settings).images[0]  # type: ignore[arg-type]

    usual = make()
    assert difference(make(), usual) == 0
    changed = [
        make(studio.identify(tiny.portrait(6))),
        make(prompt="a man on a beach"),
        make(negative_prompt="blurry"),
        make(num_inference_steps=3),
        make(guidance_scale=2.0),
        make(guidance_scale=1.0),
        make(scale=0.0),
        make(merge_at=0.0),
        make(merge_at=1.0),
        make(face_text="His nose is long."),
        make(parts={"eyes": "green eyes"}),
    ]
    for number, image in enumerate(changed):
        assert difference(image, usual) > 0, number
    assert difference(make(), usual) == 0, "a call's settings outlast it"
    assert make(width=96, height=48).size == (96, 48)


def test_settings_of_the_preset_are_the_default(preset: Path, studio: ConsistentIDPipeline, who: Identity) -> None:
    other = ConsistentIDPipeline.from_preset(preset, device="cpu", steps=3, guidance_scale=2.0)
    expected = studio(who, PROMPT, seed=1, num_inference_steps=3, guidance_scale=2.0).images[0]
    assert difference(other(who, PROMPT, seed=1).images[0], expected) == 0


def test_progress_counts_the_steps_of_all_pictures(studio: ConsistentIDPipeline, who: Identity) -> None:
    calls: list[tuple[int, int]] = []
    studio(who, PROMPT, num_images_per_prompt=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 6), (4, 6), (5, 6), (6, 6)]


def test_likeness(studio: ConsistentIDPipeline, who: Identity) -> None:
    scores = studio.score([tiny.portrait(), tiny.portrait(9), tiny.portrait(5), tiny.draw()[0]], who)
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[0] > scores[1] > scores[2]
    assert math.isnan(scores[3])
    out = studio(who, PROMPT, num_images_per_prompt=2, seed=3)
    assert out.scores == pytest.approx(studio.score(out.images, who), nan_ok=True)


def test_best_of_keeps_those_of_best_likeness(studio: ConsistentIDPipeline, who: Identity) -> None:
    everything = studio(who, PROMPT, num_images_per_prompt=4, seed=3)
    ranked = sorted(
        zip(everything.scores, everything.seeds, strict=True), key=lambda x: -math.inf if math.isnan(x[0]) else x[0]
    )[::-1]
    best = studio(who, PROMPT, num_images_per_prompt=2, best_of=4, seed=3)
    assert best.seeds == [seed for _, seed in ranked[:2]]
    assert best.scores == pytest.approx([score for score, _ in ranked[:2]], abs=0.01)
    assert len(best.images) == len(best.withheld) == 2


def test_wrong_arguments_are_named(studio: ConsistentIDPipeline, who: Identity) -> None:
    for wrong, words in (
        ({"prompt": " "}, "prompt=' ' is empty; describe"),
        ({"num_images_per_prompt": 0}, "make at least one picture"),
        ({"num_images_per_prompt": 3, "best_of": 2}, "best_of no less than num_images_per_prompt"),
        ({"seed": -1}, "give an integer from 0 to 4294967295"),
        ({"width": 65}, "width=65 is not allowed; give a multiple of 8"),
        ({"height": 9000}, "height=9000 is not allowed"),
        ({"merge_at": 2}, "merge_at=2 is not allowed; give a number from 0 to 1"),
        ({"num_inference_steps": 0}, "steps=0 is not allowed"),
        ({"parts": {"chin": "round"}}, "chin"),
    ):
        with pytest.raises(InputError) as caught:
            studio(who, **{"prompt": PROMPT, **wrong})  # type: ignore[arg-type]
        assert words in str(caught.value)
    with pytest.raises(PromptTooLongError):
        studio(who, "very " * 200 + "long")


def test_identity_of_other_networks_is_refused_before_the_base_is_loaded(preset: Path, who: Identity) -> None:
    foreign = replace(who, provenance={**who.provenance, "recogniser": "w600k_r50@0123456789ab"})
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
    with pytest.raises(IncompatibleIdentityError, match="w600k_r50"):
        studio(foreign, PROMPT)
    assert "pipe" not in vars(studio)


def test_networks_are_loaded_once_and_when_needed(preset: Path) -> None:
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
    assert not {"pipe", "adapter", "analyzer", "encoder"} & set(vars(studio))
    studio.identify(tiny.portrait())
    assert "pipe" not in vars(studio), "to identify takes no base"
    assert studio.encoder is studio.encoder
    assert studio.encoder.analyzer is studio.analyzer


def test_the_safety_checker_of_the_base_is_kept(preset: Path, tmp_path: Path, who: Identity) -> None:
    shutil.copytree(preset, tmp_path / "guarded")
    studio = ConsistentIDPipeline.from_preset(tmp_path / "guarded", device="cpu")
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=32)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-10)  # everything counts as forbidden
    studio.pipe.register_modules(
        safety_checker=checker,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    out = studio(who, PROMPT, num_images_per_prompt=2)
    assert out.withheld == [True, True]
    assert np.asarray(out.images[0]).max() == 0
    assert all(math.isnan(score) for score in out.scores)


# ----------------------------------------------------------------------------------------------------- faulty weights


def _truncate(name: str) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return fault


def _swap(a: str, b: str) -> Callable[[Path], None]:
    def fault(folder: Path) -> None:
        (folder / a).write_bytes((folder / b).read_bytes())

    return fault


FAULTS = {
    "base truncated": (_truncate("base/unet/diffusion_pytorch_model.safetensors"), "base"),
    "base of another kind": (
        _swap("base/unet/diffusion_pytorch_model.safetensors", "parser/model.safetensors"),
        "base",
    ),
    "no index": (lambda folder: (folder / "base" / "model_index.json").unlink(), "base"),
    "adapter truncated": (_truncate("adapter/model.safetensors"), "adapter"),
    "adapter of another kind": (_swap("adapter/model.safetensors", "parser/model.safetensors"), "adapter"),
    "adapter gone": (lambda folder: shutil.rmtree(folder / "adapter"), "adapter"),
    "image encoder truncated": (_truncate("image_encoder/model.safetensors"), "image_encoder"),
    "image encoder of another kind": (
        _swap("image_encoder/model.safetensors", "parser/model.safetensors"),
        "image_encoder",
    ),
    "parser truncated": (_truncate("parser/model.safetensors"), "parser"),
    "recogniser truncated": (_truncate("recogniser.onnx"), "recogniser"),
    "recogniser gone": (lambda folder: (folder / "recogniser.onnx").unlink(), "recogniser"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_weights_are_named(preset: Path, tmp_path: Path, name: str) -> None:
    fault, place = FAULTS[name]
    folder = tmp_path / "faulty"
    shutil.copytree(preset, folder)
    fault(folder)
    studio = ConsistentIDPipeline.from_preset(folder, device="cpu")
    with pytest.raises(CheckpointError) as caught:
        _ = studio.pipe if place in ("base", "adapter") else studio.encoder
    assert str(folder / place) in str(caught.value)


def test_unknown_scheduler(preset: Path) -> None:
    with pytest.raises(InputError, match="scheduler='Magic' is not known"):
        _ = ConsistentIDPipeline.from_preset(preset, device="cpu", scheduler="Magic").pipe


def test_provenance_is_the_same_on_every_machine(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from the hub carry the name of their repository and the hash of the one file that is used."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--laion--CLIP-X" / "snapshots" / ("a" * 40)
    shutil.copytree(preset / "image_encoder", snapshot)
    (snapshot / "other.safetensors").write_bytes(b"of another library")
    encoder = Network(repo="laion/CLIP-X", revision="a" * 40, files=("config.json", "model.safetensors"))
    assert _provenance(encoder) == fingerprint(preset / "image_encoder").replace("image_encoder", "CLIP-X")
    assert _provenance(Network(repo="laion/absent", files=("a.bin",))) == ""


def test_device_and_dtype() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    assert resolve_device(None).type in ("cpu", "cuda", "mps")
    for wrong in ("cuda:99", "gpu", "meta"):
        with pytest.raises(InputError, match=f"device='{wrong}' is not there; this machine has cpu"):
            resolve_device(wrong)
    assert resolve_dtype("auto", cpu) == resolve_dtype(torch.float32, cpu) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == resolve_dtype("float16", cpu) == torch.float16
    with pytest.raises(InputError, match="give one of float32, float16, bfloat16, auto"):
        resolve_dtype("float8", cpu)
