"""Requests of different people in one batch, on the drawn preset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.errors import CancelledError, InputError, PipelineError, PromptTooLongError
from consistentid.pipeline.checks import OF_EACH
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.portraits import Portraits
from consistentid.pipeline.request import Request, Step
from consistentid.presets.settings import Settings

FOLDER = Path(__file__).parents[2] / "examples/portraits"
STEPS = 3


@pytest.fixture(scope="module")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset("drawn", device="cpu")


@pytest.fixture(scope="module")
def people(studio: ConsistentIDPipeline) -> tuple[Identity, Identity]:
    return studio.identify(FOLDER / "ada.png"), studio.identify(FOLDER / "tom.png")


def levels(a: Image.Image, b: Image.Image) -> int:
    """The greatest difference of any value of two pictures."""
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


def made(result: Portraits | Exception) -> Portraits:
    assert isinstance(result, Portraits), result
    return result


@pytest.mark.slow
def test_each_is_what_it_is_alone(studio: ConsistentIDPipeline, people: tuple[Identity, Identity]) -> None:
    ada, tom = people
    common = {"num_inference_steps": STEPS}
    requests = [
        Request(ada, "a woman in a red hat", seed=1, merge_at=0.2, **common),
        Request(tom, "a man on a beach", seed=2, merge_at=0.5, negative_prompt="a hat", **common),
        Request(ada, ["a woman", "a drawing"], seed=3, parts={"eyes": "green eyes"}, merge_at=[0.0], **common),
        Request(tom, "a man", seed=4, face_text="a face with blue eyes", num_images_per_prompt=2, best_of=3, **common),
        Request(tom, "a man", seed=5, person_prompts=["with glasses"], merge_at=1.0, **common),
        Request(ada, "a woman", seed=6, part_scales={"eyes": 0.2}, merge_at=0.0, **common),
    ]
    results = [made(result) for result in studio.generate_batch(requests)]
    for request, result in zip(requests, results, strict=True):
        alone = studio.generate(request)
        assert (result.seeds, result.prompts, result.record) == (alone.seeds, alone.prompts, alone.record)
        assert result.scores == pytest.approx(alone.scores, abs=0.01, nan_ok=True)
        assert max(map(levels, result.images, alone.images)) <= 1
    assert levels(results[0].images[0], results[1].images[0]) > 50
    [alone] = studio.generate_batch(requests[:1])
    assert made(alone).to_png(0) == studio.generate(requests[0]).to_png(0), "one alone is the same to the last bit"


@pytest.mark.slow
def test_what_happens_to_one_does_not_hurt_the_others(
    studio: ConsistentIDPipeline, people: tuple[Identity, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, tom = people
    common = {"num_inference_steps": STEPS}
    seen: dict[int, list[Step]] = {1: [], 2: []}

    def stopped() -> bool:
        return len(seen[1]) > 1

    good = Request(ada, "a woman", seed=1, **common)
    requests = [
        good,
        Request(tom, "a man", seed=2, on_step=seen[1].append, cancelled=stopped, **common),
        Request(tom, "word " * 200, seed=3, **common),
        Request(tom, "a man", seed=4, num_images_per_prompt=2, on_step=seen[2].append, **common),
    ]
    first, cancelled, long, last = studio.generate_batch(requests)
    assert isinstance(cancelled, CancelledError)
    assert isinstance(long, PromptTooLongError)
    assert len(seen[1]) == 2, "the stage before sampling and one step"
    told = [(step.stage, step.done, step.total) for step in seen[2]]
    assert told == [("encoding", 0, 0), *(("sampling", 2 * n, 6) for n in range(1, 4)), ("scoring", 2, 2)]
    assert [len(step.latents) for step in seen[2] if step.latents is not None] == [2] * STEPS
    assert levels(made(first).images[0], studio.generate(good).images[0]) <= 1
    assert len(made(last)) == 2

    def fail(step: Step) -> None:
        raise ValueError("of this one alone")

    first, failed = studio.generate_batch([good, Request(tom, "a man", seed=2, on_step=fail, **common)])
    assert isinstance(failed, ValueError)
    assert made(first).to_png(0) == studio.generate(good).to_png(0)

    def broken(pixels: Any, batch: Any) -> Any:
        pixels[1] = float("nan")
        return pixels

    decode = studio.pipe.image_processor.postprocess
    monkeypatch.setattr(
        studio.pipe.image_processor, "postprocess", lambda pixels, **options: broken(decode(pixels, **options), None)
    )
    first, failed = studio.generate_batch([good, Request(tom, "a man", seed=2, **common)])
    assert isinstance(failed, PipelineError)
    assert "of seed 2 hold values that are not finite" in str(failed)
    assert len(made(first)) == 1

    stop = {"cancelled": lambda: True, **common}
    both = studio.generate_batch([Request(ada, "a woman", **stop), Request(tom, "a man", **stop)])
    assert all(isinstance(result, CancelledError) for result in both)


def test_a_warning_goes_to_the_one_whom_it_concerns(
    studio: ConsistentIDPipeline, people: tuple[Identity, Identity]
) -> None:
    ada, tom = people
    at_work: list[int] = []
    told: list[tuple[int, str]] = []

    @contextmanager
    def around(number: int) -> Iterator[None]:
        at_work.append(number)
        yield
        at_work.remove(number)

    def show(message: Warning | str, category: type[Warning], file: str, *_: Any, **__: Any) -> None:
        if "consistentid" in file:
            told.extend((number, str(message)) for number in at_work or [-1])

    long = " ".join(["a face with green eyes and a small nose"] * 12)
    requests = [
        Request(person, "a person", seed=1, num_inference_steps=1, face_text=text)
        for person, text in ((ada, None), (tom, long))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        for result in studio.generate_batch(requests, around):
            made(result)
    assert [(number, "was cut to fit" in text) for number, text in told] == [(1, True)]


def test_what_may_share_a_batch(studio: ConsistentIDPipeline, people: tuple[Identity, Identity]) -> None:
    ada, tom = people
    defaults = Settings(steps=25)
    key = Request(ada, "a woman").batch_key(defaults)
    assert key is not None
    same: list[dict[str, Any]] = [
        {"seed": 3}, {"merge_at": 0.1}, {"negative_prompt": "a hat"}, {"parts": {"eyes": "green eyes"}},
        {"part_scales": {"eyes": 0.5}}, {"num_images_per_prompt": 4}, {"best_of": 2},
        {"num_inference_steps": 25}, {"repair": True},
    ]  # fmt: skip
    other: list[dict[str, Any]] = [
        {"num_inference_steps": 24}, {"guidance_scale": 1.0}, {"scale": 0.5}, {"width": 128}, {"height": 128},
        {"batch_size": 2},
    ]  # fmt: skip
    picture = Image.new("RGB", (64, 64))
    alone: list[dict[str, Any]] = [
        {"image": picture}, {"image": picture, "mask": picture}, {"control": picture}, {"regions": [(0, 0, 1, 1)]},
        {"identity": None, "base_alone": True}, {"identity": [ada, tom]},
    ]  # fmt: skip
    for arguments in same:
        assert Request(tom, "a man", **arguments).batch_key(defaults) == key
    for arguments in other:
        assert Request(tom, "a man", **arguments).batch_key(defaults) not in (key, None)
    for arguments in alone:
        assert Request(**{"identity": tom, "prompt": "a man", **arguments}).batch_key(defaults) is None
    with pytest.raises(InputError, match="cannot be sampled in one batch"):
        studio.generate_batch([Request(ada, "a woman"), Request(tom, "a man", num_inference_steps=3)])


def test_of_every_argument_it_is_known_what_it_means_in_a_batch() -> None:
    of_a_row = {
        "identity", "prompt", "negative_prompt", "seed", "num_images_per_prompt", "best_of", *OF_EACH, "repair",
        "repair_below", "repair_tries", "progress", "on_step", "cancelled",
    }  # fmt: skip
    of_the_call = {"num_inference_steps", "guidance_scale", "scale", "width", "height", "batch_size"}
    only_alone = {"regions", "regions_end", "image", "mask", "strength", "control", "control_scale"}
    known = of_a_row | of_the_call | only_alone | {"base_alone"}
    assert {item.name for item in fields(Request)} == known, "say in Request.batch_key what the new one means"
