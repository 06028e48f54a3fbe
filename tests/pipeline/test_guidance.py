"""Guidance stops where it is told to: what is guided is as ever, and what is not is what the pipeline does without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from torch import Tensor

import tiny
from consistentid.adapter.identity import Identity
from consistentid.pipeline.attention import word_attention
from consistentid.pipeline.guidance import guided_steps
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request, Step
from consistentid.presets.settings import Settings
from small import small_pipe

PROMPT, STEPS = "a woman in a red hat", 4


def studio_that_stops(stop: float) -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(
        tiny.preset(), device="cpu", steps=STEPS, guidance_scale=6.0, guidance_stop=stop, merge_at=0.25
    )


@pytest.fixture(scope="module")
def studio() -> ConsistentIDPipeline:
    return studio_that_stops(0.5)


@pytest.fixture(scope="module")
def who(studio: ConsistentIDPipeline) -> Identity:
    return studio.identify(tiny.portrait())


def rows_of_each_step(studio: ConsistentIDPipeline, **request: Any) -> tuple[list[int], list[Image.Image]]:
    """How many rows the UNet computes in each step, and the pictures."""
    rows: list[int] = []
    handle = studio.pipe.unet.conv_in.register_forward_pre_hook(lambda _unet, args: rows.append(len(args[0])))
    try:
        return rows, studio.sample(Request(**request)).images
    finally:
        handle.remove()


def latents_of_each_step(studio: ConsistentIDPipeline, who: Identity) -> list[Tensor]:
    found: list[Tensor] = []

    def look(step: Step) -> None:
        if step.latents is not None:
            found.append(step.latents.clone())

    studio.sample(Request(who, PROMPT, seed=3, on_step=look))
    return found


def test_steps_are_guided_until_it_stops(studio: ConsistentIDPipeline, who: Identity) -> None:
    """The settings of a call count: steps, and what of them a given picture leaves."""
    for request, rows in (
        ({}, [2, 2, 1, 1]),
        ({"num_images_per_prompt": 2}, [4, 4, 2, 2]),
        ({"num_inference_steps": 6}, [2, 2, 2, 1, 1, 1]),
        ({"image": tiny.portrait(), "strength": 0.5}, [2, 1]),
        ({"guidance_scale": 1.0}, [1, 1, 1, 1]),
        ({"base_alone": True}, [2, 2, 1, 1]),
    ):
        assert rows_of_each_step(studio, identity=who, prompt=PROMPT, seed=3, **request)[0] == rows, request


def test_people_in_their_regions_are_guided_as_long(studio: ConsistentIDPipeline, who: Identity) -> None:
    places = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
    rows, images = rows_of_each_step(studio, identity=[who, who], prompt=PROMPT, regions=places, seed=3)
    assert rows == [2, 2, 1, 1]
    assert images[0].tobytes() != studio_that_stops(1.0)([who, who], PROMPT, regions=places, seed=3).images[0].tobytes()


def test_what_is_guided_is_as_ever(studio: ConsistentIDPipeline, who: Identity) -> None:
    always, half = latents_of_each_step(studio_that_stops(1.0), who), latents_of_each_step(studio, who)
    torch.testing.assert_close(half[:2], always[:2], rtol=0, atol=0)
    for a, b in zip(half[2:], always[2:], strict=True):
        assert not torch.equal(a, b)


def test_without_any_guided_step_the_picture_is_that_of_no_guidance(who: Identity) -> None:
    never = studio_that_stops(0.0)
    with_guidance, without = (
        never.sample(Request(who, PROMPT, seed=3, guidance_scale=x)).images[0] for x in (6.0, 1.0)
    )
    assert with_guidance.tobytes() == without.tobytes()


def test_attention_is_shown_of_steps_of_both_kinds(studio: ConsistentIDPipeline, who: Identity) -> None:
    request = Request(who, PROMPT, seed=3)
    image, maps = word_attention(studio.sampler, request, studio.preset.settings)
    assert image.tobytes() == studio.sample(request).images[0].tobytes()
    assert all(heat.max() == pytest.approx(1) for heat in maps.values())


def test_nothing_stays_at_the_unet(studio: ConsistentIDPipeline, who: Identity) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    unet = studio.pipe.unet
    before = len(unet._forward_pre_hooks), len(unet._forward_hooks)
    with pytest.raises(RuntimeError, match="no memory"):
        studio.sample(Request(who, PROMPT, progress=broken))
    assert (len(unet._forward_pre_hooks), len(unet._forward_hooks)) == before


def controlled() -> Any:
    pipe = small_pipe(0)
    torch.manual_seed(2)
    controlnet = ControlNetModel.from_unet(pipe.unet).eval()
    with torch.no_grad():
        for parameter in controlnet.parameters():
            parameter.normal_(std=0.1)
    controlled = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=controlnet)
    controlled.set_progress_bar_config(disable=True)
    return controlled


@pytest.mark.parametrize("kind", ["sd", "sdxl", "controlnet"])
def test_whatever_else_the_unet_is_given_has_as_many_rows(kind: str) -> None:
    """Pooled text and sizes of SDXL, the residuals of a ControlNet."""
    pipe = controlled() if kind == "controlnet" else small_pipe(int(kind == "sdxl"))
    given = {"image": torch.linspace(0, 1, 3 * 128 * 128).view(1, 3, 128, 128)} if kind == "controlnet" else {}

    def latents(guidance_scale: float, stop: float) -> Tensor:
        settings = Settings(steps=2, guidance_scale=guidance_scale, guidance_stop=stop)
        with guided_steps(pipe, settings):
            generator = torch.Generator().manual_seed(0)
            call = {"num_inference_steps": 2, "guidance_scale": guidance_scale, "num_images_per_prompt": 2, **given}
            size = {"height": 128, "width": 128}
            found: Tensor = pipe(PROMPT, output_type="latent", generator=generator, **size, **call).images
        return found

    torch.testing.assert_close(latents(6.0, 0.0), latents(1.0, 1.0), rtol=1e-5, atol=1e-5)
    assert (latents(6.0, 1.0) - latents(1.0, 1.0)).abs().max() > 1e-3
