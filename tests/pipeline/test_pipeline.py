"""From a photo and a prompt to portraits, with tiny networks of the real classes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionInpaintPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from hand_drawn import save_onnx
from onnx import helper
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

import ldm
import tiny
from consistentid.adapter.identity import Identity
from consistentid.errors import (
    CheckpointError,
    FaceError,
    ImageError,
    IncompatibleIdentityError,
    InputError,
    NoFaceError,
    PipelineError,
    PromptTooLongError,
    SeveralFacesError,
)
from consistentid.files.weights import fingerprint
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.presets.loading import network_name
from consistentid.presets.network import Network
from consistentid.presets.settings import SAMPLERS

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
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 is not allowed"),
        ({"num_images_per_prompt": 3, "best_of": 2}, "best_of=2 is less than num_images_per_prompt=3"),
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


def test_a_doubtful_identity_is_told_once(
    studio: ConsistentIDPipeline, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released adapter names its networks without a hash."""
    spec = replace(studio.adapter.spec, networks={"recogniser": "w600k_r50"})
    monkeypatch.setattr(studio.adapter, "spec", spec)
    with pytest.warns(UserWarning, match="w600k_r50") as told:
        studio(who, PROMPT, seed=1)
    assert len([one for one in told if "seems to be made" in str(one.message)]) == 1


def test_networks_are_loaded_once_and_when_needed(preset: Path) -> None:
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
    assert not {"pipe", "adapter", "analyzer", "encoder"} & set(vars(studio))
    studio.identify(tiny.portrait())
    assert "pipe" not in vars(studio), "to identify takes no base"
    assert studio.encoder is studio.encoder
    assert studio.encoder.analyzer is studio.analyzer


def test_the_image_processor_does_not_depend_on_what_is_installed(
    preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers gives this name to another class, of other rounding, where torchvision is installed."""
    monkeypatch.setattr(transformers, "CLIPImageProcessor", None)
    processor = ConsistentIDPipeline.from_preset(preset, device="cpu").encoder.processor
    assert type(processor) is CLIPImageProcessorPil


def test_the_safety_checker_of_the_base_is_kept(preset: Path, tmp_path: Path, who: Identity) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 8}, projection_dim=32)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-10)  # everything counts as forbidden
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    guarded = {"safety_checker": checker, "feature_extractor": processor}
    DiffusionPipeline.from_pretrained(preset / "base", **guarded).save_pretrained(tmp_path)
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu", base=tmp_path)
    out = studio(who, PROMPT, num_images_per_prompt=2)
    assert out.withheld == [True, True]
    assert np.asarray(out.images[0]).max() == 0
    assert all(math.isnan(score) for score in out.scores)


# ---------------------------------------------------------------------------------------------------- given pictures

PHOTO = Image.effect_noise((96, 64), 60).convert("RGB")
"""To be drawn anew; a third of its pixels are masked."""


def half_mask() -> Image.Image:
    mask = Image.new("L", PHOTO.size, 0)
    mask.paste(255, (64, 0, 96, 64))
    mask.paste(128, (60, 0, 64, 64))  # a soft edge
    return mask


def test_a_picture_is_drawn_anew_as_far_as_asked(studio: ConsistentIDPipeline, who: Identity) -> None:
    def make(strength: float, seed: int = 1) -> Image.Image:
        return studio(who, PROMPT, image=PHOTO, seed=seed, num_inference_steps=4, strength=strength).images[0]

    small, large = make(0.25), make(1.0)
    assert small.size == (80, 56), "of the photo's shape, with as many pixels as the base draws, in multiples of 8"
    assert difference(small, large) > 5
    other = Image.effect_noise((96, 64), 60).convert("RGB")
    assert difference(studio(who, PROMPT, image=other, seed=1, strength=0.5).images[0], make(0.5)) > 5
    assert studio(who, PROMPT, image=PHOTO, width=48, height=96).images[0].size == (80, 56), "pixels, not shape"


def test_outside_the_mask_every_pixel_stays(studio: ConsistentIDPipeline, who: Identity, tmp_path: Path) -> None:
    mask = half_mask()
    out = studio(who, PROMPT, image=PHOTO, mask=mask, seed=1, num_images_per_prompt=3, strength=1)
    kept = np.asarray(mask) == 0
    for picture in out.images:
        assert picture.size == PHOTO.size
        assert np.array_equal(np.asarray(picture)[kept], np.asarray(PHOTO)[kept])
        assert not np.array_equal(np.asarray(picture)[~kept], np.asarray(PHOTO)[~kept])
    assert difference(*out.images[:2]) > 5
    PHOTO.save(tmp_path / "photo.png")
    mask.save(tmp_path / "mask.png")
    for seed, picture in zip(out.seeds, out.images, strict=True):
        paths = {"image": tmp_path / "photo.png", "mask": str(tmp_path / "mask.png")}
        again = studio(who, PROMPT, **paths, seed=seed, strength=1)  # type: ignore[arg-type]
        assert difference(again.images[0], picture) <= 1, "a picture is made again alone with its seed"


def test_the_person_is_looked_for_where_they_were_put(studio: ConsistentIDPipeline) -> None:
    """The likeness is of the area drawn anew, not of a larger face beside it."""
    photo = tiny.draw((64, 58), size=(256, 128))[0]
    bystander = studio.identify(photo)
    mask = Image.new("L", photo.size, 0)
    mask.paste(255, (200, 40, 232, 72))
    out = studio(bystander, PROMPT, image=photo, mask=mask, seed=1)
    assert studio.score(out.images, bystander)[0] > 0.9
    assert not out.scores[0] > 0.9


@pytest.fixture(scope="module")
def inpainter(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> ConsistentIDPipeline:
    """The tiny preset on a base whose UNet reads nine channels: latents, mask, and what is around the mask."""
    folder = tmp_path_factory.mktemp("inpaint")
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(preset / "base" / "unet")
    unet = UNet2DConditionModel.from_config({**config, "in_channels": 9})
    StableDiffusionInpaintPipeline.from_pretrained(preset / "base", unet=unet).save_pretrained(folder)
    return ConsistentIDPipeline.from_preset(preset, device="cpu", base=folder)


def test_a_base_for_inpainting(inpainter: ConsistentIDPipeline, who: Identity) -> None:
    mask = half_mask()

    def make(person: Identity = who, image: Image.Image = PHOTO, **more: object) -> Image.Image:
        return inpainter(person, PROMPT, image=image, mask=mask, seed=1, strength=1, **more).images[0]  # type: ignore[arg-type]

    picture, kept = make(), np.asarray(mask) == 0
    assert np.array_equal(np.asarray(picture)[kept], np.asarray(PHOTO)[kept])
    assert not np.array_equal(np.asarray(picture)[~kept], np.asarray(PHOTO)[~kept])
    assert difference(make(inpainter.identify(tiny.portrait(6))), picture) > 0
    assert difference(make(scale=0.0), picture) > 0
    repainted = PHOTO.copy()
    repainted.paste("red", (0, 0, 60, 64))
    inside = np.asarray(mask) == 255
    assert not np.array_equal(np.asarray(make(image=repainted))[inside], np.asarray(picture)[inside]), "it sees around"
    for given in ({}, {"image": PHOTO}):
        with pytest.raises(InputError, match="made for inpainting: it needs a picture and a mask"):
            inpainter(who, PROMPT, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def controlled(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> ConsistentIDPipeline:
    """The tiny preset with a ControlNet that does something."""
    folder = tmp_path_factory.mktemp("control")
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu", fold=False)
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(
        type(studio.pipe.unet).from_pretrained(preset / "base" / "unet"), conditioning_embedding_out_channels=(8, 8, 16)
    )
    with torch.no_grad():
        for block in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            block.weight.normal_(std=0.1)
        network.controlnet_cond_embedding.conv_out.weight.normal_(std=0.1)
    network.save_pretrained(folder / "controlnet")
    return ConsistentIDPipeline.from_preset(preset, device="cpu", controlnet=folder / "controlnet")


def test_controlnet(controlled: ConsistentIDPipeline, studio: ConsistentIDPipeline, who: Identity) -> None:
    pose = PHOTO.resize((192, 128))

    def make(**more: object) -> Image.Image:
        return controlled(who, PROMPT, seed=1, **more).images[0]  # type: ignore[arg-type]

    posed = make(control=pose)
    assert posed.size == (80, 56)
    assert difference(make(control=pose.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), posed) > 0
    assert difference(make(control=pose, control_scale=0.0), make(width=80, height=56)) <= 1
    assert difference(make(control=pose, image=PHOTO, strength=0.5), make(image=PHOTO, strength=0.5)) > 0
    painted = make(control=pose, image=PHOTO, mask=half_mask())
    kept = np.asarray(half_mask()) == 0
    assert np.array_equal(np.asarray(painted)[kept], np.asarray(PHOTO)[kept])
    assert difference(painted, make(image=PHOTO, mask=half_mask())) > 0
    with pytest.raises(InputError, match="none is chosen; name one: --control-model"):
        studio(who, PROMPT, control=pose)
    with pytest.raises(InputError, match="control is 64x64 pixels, the image 96x64; give a control picture of its"):
        make(control=pose.resize((64, 64)), image=PHOTO)


def test_given_pictures_that_do_not_go_together(studio: ConsistentIDPipeline, who: Identity) -> None:
    for wrong, words in (
        ({"mask": half_mask()}, "mask says what of image is drawn anew; give image, too"),
        ({"image": PHOTO, "mask": half_mask().resize((64, 64))}, "the mask is 64x64 pixels, the image 96x64"),
        ({"image": PHOTO, "mask": Image.new("L", PHOTO.size)}, "the mask is black all over"),
        ({"image": PHOTO, "strength": 0.1}, "strength=0.1 of 2 steps is no step at all"),
        ({"image": PHOTO, "strength": 1.5}, "strength=1.5 is not allowed; give a number from 0 to 1"),
        ({"image": "absent.png"}, "absent.png: no such file"),
    ):
        with pytest.raises(InputError, match=words):
            studio(who, PROMPT, **wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- samplers, LoRAs, memory, caching


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_by_name(preset: Path, who: Identity, name: str) -> None:
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu", scheduler=name)
    few = name in ("lcm", "lightning", "hyper-sd")
    assert (studio.preset.settings.guidance_scale == 1) == few
    assert (studio.preset.settings.steps > 2) == few, "the preset's own are two"
    steps: list[int] = []
    hook = studio.pipe.unet.register_forward_hook(lambda _unet, args, _out: steps.append(len(args[0])))
    out = studio(who, PROMPT, seed=1)
    hook.remove()
    assert len(steps) == studio.preset.settings.steps
    assert set(steps) == {1 if few else 2}, "guidance off: one evaluation a step"
    assert np.asarray(out.images[0]).std() > 0


def save_lora(file: Path, unet: torch.nn.Module) -> None:
    random = torch.Generator().manual_seed(7)
    state = {}
    for name, module in unet.named_modules():
        if name.endswith((".attn1.to_q", ".attn2.to_v")):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=random)
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=random)
    save_file(state, file)


@pytest.mark.slow
def test_community_loras_beside_ours(
    preset: Path, tmp_path: Path, studio: ConsistentIDPipeline, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_lora(tmp_path / "style.safetensors", type(studio.pipe.unet).from_pretrained(preset / "base" / "unet"))
    monkeypatch.chdir(tmp_path)
    plain = studio(who, PROMPT, seed=1).images[0]
    pictures = {}
    for scale in ("0", "0.5", "1"):
        styled = ConsistentIDPipeline.from_preset(preset, device="cpu", loras=[f"style.safetensors:{scale}"])
        pictures[scale] = styled(who, PROMPT, seed=1).images[0]
    twice = ConsistentIDPipeline.from_preset(preset, device="cpu", loras=["style.safetensors:0.5"] * 2, fold=False)
    assert difference(pictures["0"], plain) <= 1
    assert difference(pictures["0.5"], pictures["1"]) > 1
    assert difference(twice(who, PROMPT, seed=1).images[0], pictures["1"]) <= 1
    save_file({"text.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"lora 1: .*other\.safetensors"):
        _ = ConsistentIDPipeline.from_preset(preset, device="cpu", loras=["other.safetensors"]).pipe


def test_low_memory_gives_the_same_pictures_and_lets_go_of_the_image_encoder(
    preset: Path, studio: ConsistentIDPipeline, who: Identity
) -> None:
    small = ConsistentIDPipeline.from_preset(preset, device="cpu", low_memory=True)
    again = small.identify(tiny.portrait())
    assert "encoder" not in vars(small)
    assert torch.equal(again.part_features, who.part_features)
    out = small(again, PROMPT, seed=1, num_images_per_prompt=2)
    assert small.pipe.vae.use_slicing
    assert small.pipe.vae.use_tiling
    for picture, usual in zip(out.images, studio(who, PROMPT, seed=1, num_images_per_prompt=2).images, strict=True):
        assert difference(picture, usual) <= 1


@pytest.mark.slow
def test_low_memory_offloads_every_variant_of_the_pipeline(
    preset: Path, who: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate's hooks, with the CPU in the GPU's place; on a CPU low memory is but the tiles."""
    offload = DiffusionPipeline.enable_model_cpu_offload
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda pipe, device: offload(pipe, device="cpu"))
    tiled, small = (ConsistentIDPipeline.from_preset(preset, device="cpu", low_memory=True) for _ in range(2))
    small.device = torch.device("meta")
    monkeypatch.setattr(small, "faces_at_work", nullcontext)
    for given in ({}, {"image": PHOTO}, {}, {"image": PHOTO, "mask": half_mask()}, {}):
        usual = tiled(who, PROMPT, seed=1, **given).images[0]  # type: ignore[arg-type]
        assert difference(small(who, PROMPT, seed=1, **given).images[0], usual) <= 1  # type: ignore[arg-type]
        assert all(hasattr(getattr(small.pipe, name), "_hf_hook") for name in ("unet", "vae", "text_encoder"))
    assert not hasattr(tiled.pipe.unet, "_hf_hook")


def test_the_face_networks_are_on_the_device_only_while_they_look(
    preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
    encoder, parser = studio.encoder.image_encoder, studio.analyzer.parser.network  # type: ignore[attr-defined]
    moves: list[tuple[str, str]] = []
    for name, network in (("encoder", encoder), ("parser", parser)):
        monkeypatch.setattr(network, "to", lambda device, name=name: moves.append((name, str(device))))
    studio.device = torch.device("meta")  # any but the one they live on
    who = studio.identify(tiny.portrait())
    looking, encoding = ([(name, "meta"), (name, "cpu")] for name in ("parser", "encoder"))
    assert moves == looking + encoding, "CLIP only when the face is known to be one"
    moves.clear()
    studio.score([tiny.portrait()], who)
    assert moves == looking


@pytest.mark.slow
def test_inputs_are_made_once_until_a_network_changes(preset: Path, who: Identity) -> None:
    studio = ConsistentIDPipeline.from_preset(preset, device="cpu")
    made: list[int] = []
    studio.adapter.image_projection.register_forward_hook(lambda *_: made.append(1))

    def count(**more: object) -> int:
        made.clear()
        studio(**{"identity": who, "prompt": PROMPT, "seed": 1, **more})  # type: ignore[arg-type]
        return len(made)

    first = studio(who, PROMPT, seed=1).images[0]
    assert count() == count(seed=2) == count(scale=0.5) == count(num_inference_steps=3) == 0
    assert difference(studio(who, PROMPT, seed=1).images[0], first) == 0
    for changed in ({"prompt": "a man"}, {"negative_prompt": "b"}, {"guidance_scale": 2.0}, {"merge_at": 0.5}):
        assert count(**changed) > 0, changed
    assert count(parts={"eyes": "green eyes"}) > 0
    assert count(identity=replace(who, embedding=-who.embedding)) > 0
    assert count() == 0, "the others did not push it out"
    for network in (studio.adapter.facial_encoder, studio.adapter.image_projection, studio.pipe.text_encoder):
        with torch.no_grad():
            next(network.parameters()).mul_(1.01)
        assert count() > 0
        assert count() == 0
    studio.pipe.text_encoder.load_state_dict(studio.pipe.text_encoder.state_dict())
    assert count() > 0
    for number in range(40):
        studio(who, f"man {number}", num_inference_steps=1)
    assert len(studio.sampler._inputs) == 32
    studio.pipe.enable_attention_slicing(1)
    with pytest.raises(PipelineError, match="ID layers are gone"):
        count()


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


LOST = {
    "base/unet/diffusion_pytorch_model.safetensors": "conv_out.bias",
    "base/vae/diffusion_pytorch_model.safetensors": "decoder.conv_out.weight",
    "base/text_encoder/model.safetensors": "final_layer_norm.bias",
    "image_encoder/model.safetensors": "post_layernorm.bias",
    "parser/model.safetensors": "classifier.bias",
}


@pytest.mark.parametrize("file", LOST)
def test_weights_that_are_missing_are_named(preset: Path, tmp_path: Path, file: str) -> None:
    """Other libraries would draw them at random."""
    shutil.copytree(preset, tmp_path / "faulty")
    path = tmp_path / "faulty" / file
    weights = {name: x for name, x in load_file(path).items() if not name.endswith(LOST[file])}
    save_file(weights, path, metadata={"format": "pt"})
    studio = ConsistentIDPipeline.from_preset(tmp_path / "faulty", device="cpu")
    with pytest.raises(CheckpointError, match=f"lacks the weights .*{LOST[file]}; get its files again") as caught:
        _ = studio.pipe if file.startswith("base") else studio.encoder
    assert str(path.parent) in str(caught.value)


def test_unknown_scheduler(preset: Path) -> None:
    with pytest.raises(InputError, match="scheduler='Magic' is not known"):
        _ = ConsistentIDPipeline.from_preset(preset, device="cpu", scheduler="Magic").pipe


@pytest.mark.slow
def test_what_the_hub_s_cache_holds_is_used_offline(
    preset: Path, who: Identity, studio: ConsistentIDPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the revision that the preset names, whatever else is there."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "a" * 40
    content: dict[str, Any] = {"detector": {"kind": "labels"}, "scheduler": "DDIMScheduler"}
    kinds = {"parser": "segformer", "recogniser": "onnx"}
    for role in ("base", "adapter", "image_encoder", "parser", "recogniser"):
        snapshot = tmp_path / f"models--me--{role}" / "snapshots" / revision
        if role == "recogniser":
            snapshot.mkdir(parents=True)
            shutil.copy(preset / "recogniser.onnx", snapshot)
        else:
            shutil.copytree(preset / role, snapshot)
        names = (path.name for path in snapshot.iterdir() if path.suffix in (".json", ".safetensors", ".onnx"))
        files = sorted(names, key=lambda name: name.endswith(".safetensors"))  # the weights last
        content[role] = {"repo": f"me/{role}", "revision": revision, "kind": kinds.get(role, ""), "files": files}
    content["adapter"]["files"] = ["model.safetensors"]
    content["base"]["files"] = ["model_index.json", "vae/config.json"]
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump({**content, "settings": {"steps": 2, "merge_at": 0.25}}))
    cached = ConsistentIDPipeline.from_preset(tmp_path / "hub.yaml", device="cpu")
    again = cached.identify(tiny.portrait())
    assert dict(again.provenance) == dict(who.provenance)
    assert difference(cached(again, PROMPT, seed=1).images[0], studio(who, PROMPT, seed=1).images[0]) <= 1
    save_file(ldm.single_file(DiffusionPipeline.from_pretrained(preset / "base")), tmp_path / "base.safetensors")
    single = ConsistentIDPipeline.from_preset(tmp_path / "hub.yaml", device="cpu", base=tmp_path / "base.safetensors")
    assert single.pipe.unet.config.sample_size == 16
    shutil.rmtree(tmp_path / "models--me--base")
    missing = ConsistentIDPipeline.from_preset(tmp_path / "hub.yaml", device="cpu")
    with pytest.raises(CheckpointError, match=r"base: me/base: offline: HF_HUB_OFFLINE is set and it is not here"):
        _ = missing.pipe
    single = ConsistentIDPipeline.from_preset(tmp_path / "hub.yaml", device="cpu", base=tmp_path / "base.safetensors")
    with pytest.raises(CheckpointError, match=r"me/base: offline: HF_HUB_OFFLINE is set and it is not here"):
        _ = single.pipe


def test_provenance_is_the_same_on_every_machine(preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from the hub carry the name of their repository and the hash of the one file that is used."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--laion--CLIP-X" / "snapshots" / ("a" * 40)
    shutil.copytree(preset / "image_encoder", snapshot)
    (snapshot / "other.safetensors").write_bytes(b"of another library")
    encoder = Network(repo="laion/CLIP-X", revision="a" * 40, files=("config.json", "model.safetensors"))
    assert network_name(encoder) == fingerprint(preset / "image_encoder").replace("image_encoder", "CLIP-X")
    assert network_name(Network(repo="laion/absent", files=("a.bin",))) == ""


def test_a_recogniser_of_another_width_is_refused_when_loaded(preset: Path, tmp_path: Path) -> None:
    """Not after CLIP was loaded, by an error about shapes of matrices."""
    folder = tmp_path / "preset"
    shutil.copytree(preset, folder)
    weight = np.random.default_rng(0).standard_normal((3 * 7 * 7, 128)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["means"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    shapes: dict[str, list[int | str]] = {"input": ["batch", 3, 112, 112], "embedding": ["batch", "width"]}
    save_onnx(folder / "recogniser.onnx", nodes, {"weight": weight}, shapes)
    shutil.rmtree(folder / "image_encoder")
    with pytest.raises(CheckpointError, match=r"makes embeddings of 128 numbers, and the adapter takes 512; use a"):
        ConsistentIDPipeline.from_preset(folder, device="cpu").identify(tiny.portrait())
