"""`Request`: what it takes, what it refuses and how it says so; the same bytes whoever hands it on."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import shutil
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from consistentid.adapter.identity import Identity
from consistentid.errors import ArgumentError, CancelledError, CheckpointError, ImageError, PipelineError
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request, Step
from consistentid.presets.settings import Settings

PROMPT = "a woman in a red hat"
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
MASK = Image.new("L", PHOTO.size, 0)
MASK.paste(255, (64, 0, 96, 64))


@pytest.fixture(scope="module")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")


@pytest.fixture(scope="module")
def who(studio: ConsistentIDPipeline) -> Identity:
    return studio.identify(tiny.portrait())


def same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return len(a) == len(b) and all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


# -------------------------------------------------------------------------------------------------------- what it takes


def test_numbers_of_numpy_are_numbers(studio: ConsistentIDPipeline, who: Identity) -> None:
    plain: dict[str, Any] = {
        "seed": 7, "num_images_per_prompt": 2, "num_inference_steps": 2, "guidance_scale": 2.5, "scale": 0.5,
        "merge_at": 0.5, "width": 64, "height": 48, "batch_size": 2,
    }  # fmt: skip
    given = {name: np.int64(x) if isinstance(x, int) else np.float32(x) for name, x in plain.items()}
    request = Request(who, PROMPT, **given)
    assert {name: getattr(request, name) for name in plain} == plain
    assert {type(getattr(request, name)) for name in plain} == {int, float}
    assert same(studio.generate(request).images, studio(who, PROMPT, **plain).images)
    assert Settings(steps=np.int64(3), scale=np.float64(0.5)) == Settings(steps=3, scale=0.5)


def as_file(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_pictures_in_every_form(studio: ConsistentIDPipeline, who: Identity, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(as_file(PHOTO))
    pixels = np.asarray(PHOTO)
    forms = [
        tmp_path / "photo.png", str(tmp_path / "photo.png"), PHOTO, pixels, pixels / np.float32(255), as_file(PHOTO),
        bytearray(as_file(PHOTO)), io.BytesIO(as_file(PHOTO)), np.dstack([pixels, np.full((64, 96), 255, np.uint8)]),
    ]  # fmt: skip
    for form in forms:
        image, _, _ = Request(who, PROMPT, image=form).pictures
        assert image is not None
        assert np.array_equal(np.asarray(image), pixels), type(form)
    for form in (np.asarray(MASK), np.asarray(MASK) > 0, np.asarray(MASK)[..., None], as_file(MASK)):
        _, mask, _ = Request(who, PROMPT, image=PHOTO, mask=form).pictures
        assert mask is not None
        assert np.array_equal(np.asarray(mask), np.asarray(MASK))
    face = tiny.portrait()
    for photo in (np.asarray(face), as_file(face), io.BytesIO(as_file(face))):
        assert torch.equal(studio.identify(photo).embedding, who.embedding)


def test_pictures_that_are_none() -> None:
    for wrong, words in (
        ("https://example.com/ada.png", r"https://example.com/ada.png: is a URL .* download the picture"),
        ("data:image/png;base64,AAAA", "is a URL"),
        (torch.zeros(3, 8, 8), "image: a Tensor is no picture; give a path"),
        (7, "image: a int is no picture"),
        (np.zeros((64, 96, 3), np.int64), "image: an array of int64 with values that are no picture; give uint8"),
        (np.full((64, 96, 3), np.nan), "image: holds values that are not finite"),
        (np.full((64, 96, 3), 2.0), "image: an array of float64 with values"),
        (np.zeros((3, 64, 96), np.uint8), r"image: an array of shape \(3, 64, 96\) is no picture; give \(H, W\)"),
        (b"hello", "image: is not a picture that can be read"),
        (io.BytesIO(as_file(PHOTO)[:400]), "image: cannot be decoded"),
    ):
        with pytest.raises(ImageError, match=words):
            Request(None, PROMPT, image=wrong)  # type: ignore[arg-type]


def test_what_is_refused_names_argument_value_and_remedy(who: Identity) -> None:
    for wrong, words in (
        ({"identity": "ada.png"}, "identity: a str is no identity; make one with identify"),
        ({"identity": [who, "tom.png"]}, "identity: a str is no identity; make one with identify"),
        ({"prompt": ["a", " "]}, "prompt=' ' is empty; describe"),
        ({"prompt": []}, "prompt is an empty list; give at least one"),
        ({"prompt": 3}, "prompt=3 is not a text"),
        ({"prompt": None}, "prompt=None is not a text"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0 is not allowed; give an integer from 1 to 1000"),
        ({"num_images_per_prompt": True}, "num_images_per_prompt=True is not allowed"),
        ({"num_images_per_prompt": 3, "best_of": 2}, "best_of=2 is less than num_images_per_prompt=3; raise"),
        ({"seed": -1}, "seed=-1 is not allowed; give an integer from 0 to 4294967295"),
        ({"seed": 1.5}, "seed=1.5 is not allowed"),
        ({"seed": "7"}, "seed='7' is not allowed"),
        ({"seed": [1, 2]}, "seed lists 2 seeds for 1 pictures"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is not allowed; give an integer from 1 to 500"),
        ({"num_inference_steps": 2.0}, "num_inference_steps=2.0 is not allowed"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan is not allowed; give a number from 0 to 100"),
        ({"scale": "strong"}, "scale='strong' is not allowed"),
        ({"merge_at": 2}, "merge_at=2 is not allowed; give a number from 0 to 1"),
        ({"width": 65}, "width=65 is not allowed; give a multiple of 8"),
        ({"negative_prompt": 3}, "negative_prompt=3 is not allowed; give a text"),
        ({"parts": {"chin": "round"}}, "parts: unknown part 'chin'; known parts are face, eyes"),
        ({"parts": {"eyes": " "}}, "parts: the words for eyes, ' ', are none; write for example 'green eyes'"),
        ({"parts": "green eyes"}, "parts='green eyes' is not allowed; give a mapping"),
        ({"parts": {"eyes": "green"}, "face_text": "x"}, "face_text and parts exclude one another"),
        ({"part_scales": {"chin": 1}}, "part_scales: unknown part 'chin'; known parts are face, eyes"),
        ({"part_scales": {"eyes": 3}}, "part_scales: eyes=3 is not allowed; give a number from 0 to 2, 1 is as"),
        ({"part_scales": {"eyes": float("nan")}}, "part_scales: eyes=nan is not allowed"),
        ({"part_scales": 0.5}, "part_scales=0.5 is not allowed; give a mapping such as {'eyes': 0.5}"),
        ({"base_alone": True, "part_scales": {"eyes": 1}}, "base_alone draws nobody in particular; leave out"),
        ({"face_text": 3}, "face_text=3 is not a text"),
        ({"base_alone": True, "parts": {"eyes": "green"}}, "base_alone draws nobody in particular; leave out"),
        ({"base_alone": "yes"}, "base_alone='yes' is not allowed; give True or False"),
        ({"strength": 0.5}, "strength says how image is used; give image"),
        ({"control_scale": 0.5}, "control_scale says how control is used; give control"),
        ({"mask": MASK}, "mask says what of image is drawn anew; give image, too"),
        ({"image": PHOTO, "mask": MASK.resize((64, 64))}, "the mask is 64x64 pixels, the image 96x64; give"),
        ({"image": PHOTO, "control": MASK.resize((64, 64))}, "control is 64x64 pixels, the image 96x64; give"),
    ):
        with pytest.raises(ArgumentError) as caught:
            Request(**{"identity": who, "prompt": PROMPT, **wrong})
        assert words in str(caught.value)


def test_a_caller_s_own_names_for_arguments() -> None:
    with pytest.raises(ArgumentError) as caught:
        Request(None, PROMPT, num_inference_steps=0)
    names = {"num_inference_steps": "--steps"}
    assert caught.value.named(names) == "--steps=0 is not allowed; give an integer from 1 to 500"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.named(names)) == (str(caught.value), caught.value.named(names))


def test_nobody_is_drawn_by_mistake(studio: ConsistentIDPipeline) -> None:
    with pytest.raises(ArgumentError, match="identity is missing; make one"):
        studio.generate(Request(None, PROMPT))
    with pytest.raises(ArgumentError, match="identity is missing; make one"):
        studio.sample(Request(None, PROMPT))


# -------------------------------------------------------------------------------------------------------- plain values


def test_plain_values_make_the_same_request(studio: ConsistentIDPipeline, who: Identity) -> None:
    request = Request(
        who, ["a man", PROMPT], seed=[3, 4], num_inference_steps=4, image=PHOTO, mask=MASK, strength=0.75, scale=0.5,
        parts={"eyes": "green eyes"}, part_scales={"eyes": 0.25}, negative_prompt="blurry",
    )  # fmt: skip
    document = json.loads(json.dumps(request.to_dict()))
    assert set(document) == {
        "prompt", "seed", "num_inference_steps", "image", "mask", "strength", "scale", "parts", "part_scales",
        "negative_prompt",
    }  # fmt: skip
    again = Request.from_dict(document, identity=who)
    for item in fields(Request):
        if item.name not in ("image", "mask"):
            assert getattr(again, item.name) == getattr(request, item.name), item.name
    assert same(studio.sample(again).images, studio.sample(request).images)
    bare = base64.b64encode(as_file(PHOTO)).decode()
    assert same([Request.from_dict({"prompt": "a", "image": bare}).pictures[0]], [PHOTO])  # type: ignore[list-item]


def test_plain_values_never_name_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(as_file(PHOTO))
    for value in (str(tmp_path / "photo.png"), "https://example.com/a.png", "data:image/png,AAAA", "", 7, "AAA"):
        with pytest.raises(ArgumentError, match="is not a picture; give the content of its file in base64"):
            Request.from_dict({"prompt": "a", "image": value})
    with pytest.raises(ArgumentError, match=r"unknown argument 'promt'; known are prompt, negative_prompt"):
        Request.from_dict({"promt": "a"})
    for name in ("identity", "on_step", "cancelled", "progress"):
        with pytest.raises(ArgumentError, match=f"unknown argument '{name}'"):
            Request.from_dict({"prompt": "a", name: None})


# ------------------------------------------------------------------------------------------------------ what it is made


@pytest.mark.slow
def test_a_list_of_prompts_is_each_prompt_alone(studio: ConsistentIDPipeline, who: Identity) -> None:
    prompts = ["a man", PROMPT, "a woman on a beach"]
    out = studio(who, prompts, num_images_per_prompt=2, seed=7)
    assert out.prompts == [prompt for prompt in prompts for _ in range(2)]
    assert out.seeds == [7, 8] * 3
    for number, prompt in enumerate(prompts):
        alone = studio(who, prompt, num_images_per_prompt=2, seed=7)
        for one, other in zip(out.images[2 * number : 2 * number + 2], alone.images, strict=True):
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    listed = studio(who, prompts, seed=[5, 9, 5])
    assert listed.seeds == [5, 9, 5]
    best = studio(who, prompts[:2], num_images_per_prompt=1, best_of=3, seed=7)
    assert best.prompts == prompts[:2]
    every = studio(who, prompts[:2], num_images_per_prompt=3, seed=7)
    for number in range(2):
        scores = every.scores[3 * number : 3 * number + 3]
        assert best.scores[number] == pytest.approx(np.nanmax(scores), abs=0.01)


def test_sampling_is_the_pipeline_s_own_call(studio: ConsistentIDPipeline, who: Identity) -> None:
    """Bit by bit what these lines of diffusers give, for one prompt and for several in a batch."""
    pipe, settings = studio.pipe, studio.preset.settings
    seeds = [7, 8]
    common = {"num_inference_steps": settings.steps, "width": None, "height": None}

    def generators() -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    studio.adapter.scale = 0.5
    options = {"merge_at": settings.merge_at, "guidance_scale": 3.0}
    one = pipe(**studio.adapter.inputs(who, PROMPT, "blurry", **options), **common, num_images_per_prompt=2,
               generator=generators()).images  # fmt: skip
    two = pipe(**studio.adapter.inputs(who, [PROMPT, "a man"], "blurry", **options), **common,
               generator=generators()).images  # fmt: skip
    studio.adapter.scale = 1.0
    given = {"scale": 0.5, "guidance_scale": 3.0, "negative_prompt": "blurry"}
    assert same(studio(who, PROMPT, seed=7, num_images_per_prompt=2, **given).images, one)
    assert same(studio(who, [PROMPT, "a man"], seed=seeds, **given).images, two)
    with studio.adapter.suspended():
        plain = pipe([PROMPT, "a man"], guidance_scale=3.0, **common, generator=generators()).images
    alone = studio.sample(Request(None, [PROMPT, "a man"], seed=seeds, guidance_scale=3.0, base_alone=True))
    assert same(alone.images, plain)


def test_the_base_alone_leaves_the_adapter_on(studio: ConsistentIDPipeline, who: Identity) -> None:
    before = studio(who, PROMPT, seed=1)
    alone = studio.generate(Request(who, PROMPT, seed=1, base_alone=True))
    assert not same(alone.images, before.images)
    assert len(alone.scores) == 1
    assert same(studio(who, PROMPT, seed=1).images, before.images)

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        studio.sample(Request(None, PROMPT, seed=1, base_alone=True, progress=broken))
    assert same(studio(who, PROMPT, seed=1).images, before.images)
    studio.adapter.detach()
    with pytest.raises(PipelineError, match="not attached"):
        studio.sample(Request(None, PROMPT, base_alone=True))
    studio.adapter.attach(studio.pipe, fold=True)


def test_an_identity_can_be_pickled_and_copied(who: Identity) -> None:
    for again in (pickle.loads(pickle.dumps(who)), copy.deepcopy(who), copy.copy(who)):
        for item in fields(Identity):
            one, other = getattr(who, item.name), getattr(again, item.name)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, item.name
        with pytest.raises(TypeError):
            again.provenance["parser"] = "another"
    assert copy.deepcopy(who).embedding.data_ptr() != who.embedding.data_ptr()


# ------------------------------------------------------------------------------------------------- stages and callbacks


def test_stages_progress_and_previews(studio: ConsistentIDPipeline, who: Identity) -> None:
    steps: list[Step] = []
    previews: list[list[Image.Image]] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        previews.append(step.preview())

    watched = studio(who, PROMPT, seed=7, num_images_per_prompt=3, on_step=on_step)
    assert [(x.stage, x.done, x.total, x.step) for x in steps] == [
        ("encoding", 0, 0, -1), ("sampling", 2, 6, 0), ("sampling", 4, 6, 1),
        ("encoding", 4, 6, -1), ("sampling", 5, 6, 0), ("sampling", 6, 6, 1), ("scoring", 3, 3, -1),
    ]  # fmt: skip
    assert [x.pictures for x in steps[:-1]] == [range(2)] * 3 + [range(2, 3)] * 3
    assert {x.size for x in steps[:-1]} == {(64, 64)}
    assert all(x.seconds_left >= 0 for x in steps if x.stage == "sampling")
    assert steps[5].seconds_left == 0
    assert [len(x) for x in previews] == [0, 2, 2, 0, 1, 1, 0]
    assert same(previews[2] + previews[5], watched.images), "the last preview is the picture"
    assert not same(previews[1], previews[2])
    assert same(watched.images, studio(who, PROMPT, seed=7, num_images_per_prompt=3).images), "looking changes nothing"
    [text] = {x.full for x in steps[0].texts}
    assert text == studio.adapter.facial_texts(who, [PROMPT])[0].full


def test_a_cancelled_request_ends_at_the_next_step_and_leaves_the_studio_usable(
    studio: ConsistentIDPipeline, who: Identity
) -> None:
    before = studio(who, PROMPT, seed=1).images
    stop, done = threading.Event(), []

    def progress(steps: int, _total: int) -> None:
        done.append(steps)
        stop.set()

    with pytest.raises(CancelledError, match=r"cancelled after 2 of 5 steps"):
        studio(who, PROMPT, seed=1, num_inference_steps=5, cancelled=stop.is_set, progress=progress)
    assert done == [1]
    with pytest.raises(CancelledError, match="after 0 of 0"):
        studio(who, PROMPT, seed=1, cancelled=lambda: True)
    assert same(studio(who, PROMPT, seed=1).images, before)


def test_pictures_are_kept_when_scoring_fails(
    studio: ConsistentIDPipeline, who: Identity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = studio(who, PROMPT, seed=1, num_images_per_prompt=3)

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(type(studio.analyzer.recogniser), "embed", broken)
    monkeypatch.setattr(studio.analyzer.detector, "detect", broken, raising=False)
    with pytest.warns(UserWarning, match=r"likeness could not be measured \(CUDA error.*all 3 pictures are kept"):
        out = studio(who, PROMPT, seed=1, num_images_per_prompt=1, best_of=3)
    assert same(out.images, expected.images)
    assert np.isnan(out.scores).all()
    assert not out.scored
    assert out.likeness(0) == "likeness unknown"
    results = out.save(tmp_path)
    assert [picture["likeness"] is None or np.isnan(picture["likeness"]) for picture in results["pictures"]] == [
        True
    ] * 3


def test_face_networks_that_cannot_be_loaded_are_told_before_sampling(who: Identity, tmp_path: Path) -> None:
    folder = tmp_path / "preset"
    shutil.copytree(tiny.preset(), folder)
    (folder / "recogniser.onnx").write_bytes(b"broken")
    studio = ConsistentIDPipeline.from_preset(folder, device="cpu")
    steps: list[int] = []
    with pytest.raises(CheckpointError, match="recogniser"):
        studio(who, PROMPT, progress=lambda done, _total: steps.append(done))
    assert steps == []
    assert "pipe" not in vars(studio)


def test_replace_checks_again(who: Identity) -> None:
    request = Request(who, PROMPT, image=PHOTO, mask=MASK)
    assert replace(request, seed=3).seed == 3
    with pytest.raises(ArgumentError, match="merge_at=7"):
        replace(request, merge_at=7)
    assert replace(request, seed=3).settings(Settings(steps=9)).steps == 9
    assert request.with_settings({"steps": 4}).num_inference_steps == 4
