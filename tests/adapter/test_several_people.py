"""Several people in one picture or in one batch: exact relations to the plain call, in every kind of pipeline."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.injection import LORA_NAME
from consistentid.errors import InputError, PipelineError, PromptTooLongError
from kinds import HEIGHT, KINDS, WIDTH, controlnet, latents, make
from small import RELEASED, attach_small, small_pipe
from turns import by_turns

STEPS = 3
PROMPT = "two friends at a beach"
LEFT, RIGHT = (0.05, 0.1, 0.45, 0.9), (0.5, 0.1, 0.95, 0.95)
FULL = (0, 0, 1, 1)
CASES = [("txt2img", 0, False), ("txt2img", 1, True), ("lcm", 0, False), ("lcm", 1, False)]
CASES += [(kind, family, not family) for kind in KINDS if kind != "lcm" for family in (0, 1)]
"""Kind of pipeline, SD or SDXL, with or without guidance."""
ALTERNATE = [
    pytest.param(*case, marks=[] if number % 4 in (0, 3) else [pytest.mark.slow]) for number, case in enumerate(CASES)
]
"""The same, every other one of them slow: each kind has one of the two families, by turns."""


def fresh(kind: str = "txt2img", family: int = 0) -> tuple[Any, ConsistentID]:
    """A pipeline of a kind and an adapter attached to it, to be changed at will."""
    pipe = make(kind, family, small_pipe(family))
    return pipe, attach_small(pipe, RELEASED[family])


@pytest.fixture(scope="module")
def attached() -> Callable[..., tuple[Any, ConsistentID]]:
    """The same, one of each kind for all tests that leave it as it is."""
    return cache(fresh)


def guidance(pipe: Any, guided: bool) -> float:
    if type(pipe).__name__ == "LatentConsistencyModelPipeline":
        return 8.0  # its guidance is no second evaluation
    return 5.0 if guided else 1.0


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-3)


# ------------------------------------------------------------------------------------------------------ the invariants


@pytest.mark.parametrize(("kind", "family", "guided"), ALTERNATE)
def test_one_person_everywhere_is_the_plain_call(
    attached: Callable[..., Any], person: Callable[..., Any], kind: str, family: int, guided: bool
) -> None:
    pipe, cid = attached(kind, family)
    options = {"num_inference_steps": STEPS} | KINDS[kind][2]
    common = {"negative_prompt": "blurry, dull", "merge_at": 1 / STEPS, "guidance_scale": guidance(pipe, guided)}
    plain = latents(pipe, cid.inputs(person(), PROMPT, **common), **options)
    close(latents(pipe, cid.inputs(person(), PROMPT, regions=[FULL], **common), **options), plain)
    assert differ(latents(pipe, cid.inputs(person(), PROMPT, regions=[LEFT], **common), **options), plain)


@pytest.mark.parametrize(("family", "merge_at"), by_turns([0, 1], [0, 0.34, 0.67, 1]))
def test_one_person_everywhere_merges_as_the_plain_call(
    attached: Callable[..., Any], person: Callable[..., Any], family: int, merge_at: float
) -> None:
    pipe, cid = attached("txt2img", family)
    common = {"prompt": [PROMPT, "a forest"], "merge_at": merge_at, "face_text": "Her green eyes smile."}
    counts = {"num_inference_steps": STEPS, "num_images_per_prompt": 2}
    white = np.full((HEIGHT, WIDTH), 255, np.uint8)
    plain = latents(pipe, cid.inputs(person(), **common), **counts)
    close(latents(pipe, cid.inputs(person(), regions=[white], **common), **counts), plain)


@pytest.mark.parametrize(("kind", "family", "guided"), ALTERNATE)
def test_the_order_of_people_does_not_matter(
    attached: Callable[..., Any], person: Callable[..., Any], kind: str, family: int, guided: bool
) -> None:
    pipe, cid = attached(kind, family)
    options = {"num_inference_steps": STEPS} | KINDS[kind][2]
    scale = guidance(pipe, guided)
    people = [person(1), person(2), person(3, hidden=("ears",))]
    told: dict[str, list[Any]] = {
        "regions": [LEFT, (0.4, 0.0, 0.7, 0.6), RIGHT],
        "person_prompts": ["a woman in a red dress", "", "a man with a hat"],
        "merge_at": [0.34, 0.67, 0],
        "person_scales": [1.0, 0.5, 0.8],
        "face_text": [None, "Blue eyes.", None],
    }

    def picture(order: list[int], **more: Any) -> torch.Tensor:
        chosen = {name: [values[i] for i in order] for name, values in (told | more).items()}
        inputs = cid.inputs(
            [people[i] for i in order], PROMPT, "blurry", base_ratio=0.2, guidance_scale=scale, **chosen
        )
        return latents(pipe, inputs, **options)

    first = picture([0, 1, 2])
    close(picture([2, 0, 1]), first)
    assert differ(picture([0, 1, 2], regions=[told["regions"][i] for i in (2, 0, 1)]), first)


@pytest.mark.parametrize("family", [0, 1])
def test_without_identity_it_is_the_base(person: Callable[..., Any], family: int) -> None:
    pipe, cid = fresh("txt2img", family)
    cid.spec = replace(cid.spec, clauses=False)  # no separator behind an empty facial sentence
    cid.scale = 0
    pipe.set_adapters([LORA_NAME], [0.0])
    inputs = cid.inputs([person(1), person(2)], PROMPT, "blurry", regions=[LEFT, RIGHT], merge_at=1, face_text="")
    ours = latents(pipe, inputs, num_inference_steps=STEPS)
    cid.scale = 5
    assert differ(latents(pipe, inputs, num_inference_steps=STEPS), ours)
    cid.detach()
    call = {"prompt": PROMPT, "negative_prompt": "blurry", "guidance_scale": 5.0}
    close(ours, latents(pipe, call, num_inference_steps=STEPS))


@pytest.mark.parametrize(("kind", "family", "guided"), [case for case in ALTERNATE if case.values[0] != "animatediff"])
def test_people_of_one_batch_are_each_as_alone(
    attached: Callable[..., Any], person: Callable[..., Any], kind: str, family: int, guided: bool
) -> None:
    """Even with the same prompt and the same person twice, each row is its own."""
    pipe, cid = attached(kind, family)
    options = {"num_inference_steps": STEPS} | KINDS[kind][2]
    people = [person(1), person(2), person(1)]
    told: dict[str, Any] = {
        "merge_at": [0.34, 0.67, 0],
        "face_text": [None, "Blue eyes.", "A small mouth."],
    }
    negatives = ["blurry", "dull", "blurry"]

    def noise(row: int) -> torch.Generator:
        return torch.Generator().manual_seed(row)

    alone = []
    for row, who in enumerate(people):
        own = {name: values[row] for name, values in told.items()}
        inputs = cid.inputs(who, PROMPT, negatives[row], guidance_scale=guidance(pipe, guided), **own)
        alone.append(latents(pipe, inputs, **options, generator=noise(row)))
    for name in ("image", "mask_image", "control_image"):
        if name in options:
            options[name] = [options[name]] * len(people)
    inputs = cid.inputs(people, [PROMPT] * 3, negatives, guidance_scale=guidance(pipe, guided), **told)
    together = latents(pipe, inputs, **options, generator=[noise(row) for row in range(3)])
    close(together, torch.cat(alone))
    assert differ(alone[0], alone[1])
    assert differ(alone[0], alone[2])


def test_strengths_of_people_of_one_batch(person: Callable[..., Any]) -> None:
    pipe, cid = fresh()
    inputs = cid.inputs([person(1), person(2)], [PROMPT] * 2, person_scales=[0.0, 0.5])
    noise = [torch.Generator().manual_seed(3) for _ in range(2)]
    together = latents(pipe, inputs, num_inference_steps=STEPS, generator=noise)
    for row, scale in enumerate([0.0, 0.5]):
        cid.scale = scale
        alone = cid.inputs(person(1 + row), PROMPT)
        noise = [torch.Generator().manual_seed(3)]
        close(together[row : row + 1], latents(pipe, alone, num_inference_steps=STEPS, generator=noise))


# ------------------------------------------------------------------------------------------------- what is seen where


def first_layer(pipe: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """What the first cross-attention brings, (R, height, width, C): before anything else has mixed positions."""
    seen: list[torch.Tensor] = []
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    hook = layer.register_forward_hook(lambda _m, _args, output: seen.append(output))
    latents(pipe, inputs, num_inference_steps=1)
    hook.remove()
    side = round((seen[0].shape[1] / (WIDTH * HEIGHT)) ** 0.5 * HEIGHT)
    return seen[0].unflatten(1, (side, -1))


def test_a_person_changes_their_region_alone(attached: Callable[..., Any], person: Callable[..., Any]) -> None:
    pipe, cid = attached()
    common = {"prompt": PROMPT, "regions": [(0, 0, 0.5, 1), (0.5, 0, 1, 0.5)], "merge_at": 0}
    one = first_layer(pipe, cid.inputs([person(1), person(2)], **common))
    other = first_layer(pipe, cid.inputs([person(1), person(4)], **common))
    height, width = one.shape[1:3]
    changed = (one != other).any(-1)[-1]  # of the positive row
    expected = torch.zeros(height, width, dtype=torch.bool)
    expected[: height // 2, width // 2 :] = True
    assert torch.equal(changed, expected)
    scene = one[:, height // 2 :, width // 2 :]
    nobody = first_layer(pipe, cid.inputs(person(7), **(common | {"regions": [(0, 0, 0.1, 0.1)]})))
    assert torch.equal(scene, nobody[:, height // 2 :, width // 2 :]), "a position of no region sees the scene"


def test_regions_share_where_they_overlap_and_the_base_ratio_brings_in_the_scene(person: Callable[..., Any]) -> None:
    pipe, cid = fresh()
    common = {"prompt": PROMPT, "merge_at": 0}
    alone = [first_layer(pipe, cid.inputs(person(i), regions=[FULL], **common)) for i in (1, 2)]
    both = first_layer(pipe, cid.inputs([person(1), person(2)], regions=[(0, 0, 0.75, 1), (0.5, 0, 1, 1)], **common))
    width = both.shape[2]
    for columns, expected in (
        (slice(width // 2), alone[0]),
        (slice(width // 2, 3 * width // 4), (alone[0] + alone[1]) / 2),
        (slice(3 * width // 4, width), alone[1]),
    ):
        close(both[:, :, columns], expected[:, :, columns])

    cid.scale = 0
    scene, whole, mixed = (
        first_layer(pipe, cid.inputs(person(1), **common, **more))
        for more in (
            {"regions": [(0, 0, 1e-9, 1e-9)]},
            {"regions": [FULL]},
            {"regions": [FULL], "base_ratio": 0.25},
        )
    )
    assert differ(scene, whole)
    close(mixed, 0.25 * scene + 0.75 * whole)


def spans_of(call: dict[str, Any], step: int, steps: int) -> list[str]:
    """Which text each span of the positive row is after a step: the scene's, or a person's before or after merging."""
    merge = call["callback_on_step_end"]
    layout = merge.keeps
    pipe = type("Pipe", (), {"num_timesteps": steps})()
    rows = {name: call[name].clone() for name in ("prompt_embeds",)}
    for number in range(step):
        merge(pipe, number, None, rows)
    plain, fused = call["prompt_embeds"], merge.swaps[-2].text[1]
    scene = layout.span(plain, 0)
    names = []
    for index in range(layout.spans):
        span = layout.span(rows["prompt_embeds"], index)
        known = {"scene": scene, "plain": layout.span(plain, index), "fused": layout.span(fused, index)}
        names.append(next(name for name, text in known.items() if torch.equal(span, text)))
    return names


def test_people_merge_each_at_their_point_until_the_regions_end(
    attached: Callable[..., Any], person: Callable[..., Any]
) -> None:
    _, cid = attached()
    call = cid.inputs(
        [person(1), person(2)], PROMPT, regions=[LEFT, RIGHT], merge_at=[0.2, 0.5], regions_end=0.8, guidance_scale=1
    )
    seen = [spans_of(call, step, 10) for step in range(11)]
    assert seen[:3] == [["scene", "plain", "plain"]] * 3
    assert seen[3:6] == [["scene", "fused", "plain"]] * 3
    assert seen[6:9] == [["scene", "fused", "fused"]] * 3
    assert seen[9:] == [["scene", "scene", "scene"]] * 2


def test_layouts_that_are_alive_together_are_told_apart(
    attached: Callable[..., Any], person: Callable[..., Any]
) -> None:
    pipe, cid = attached()
    people = [person(1), person(2)]
    calls = [cid.inputs(people, PROMPT, regions=regions) for regions in ([LEFT, RIGHT], [RIGHT, LEFT])]
    calls.append(cid.inputs(person(1), PROMPT))
    calls.append(cid.inputs(people, [PROMPT, "a forest"]))
    first = [latents(pipe, call, num_inference_steps=2) for call in calls]
    again = [latents(pipe, call, num_inference_steps=2) for call in reversed(calls)][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert differ(first[0], first[1])


def test_a_text_that_has_lost_its_layout_is_an_error(attached: Callable[..., Any], person: Callable[..., Any]) -> None:
    pipe, cid = attached()
    call = cid.inputs([person(1), person(2)], PROMPT, regions=[LEFT, RIGHT])
    del call["callback_on_step_end"], call["callback_on_step_end_tensor_inputs"]
    with pytest.raises(PipelineError, match="without the rest of what inputs"):
        latents(pipe, call, num_inference_steps=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)])
def test_half_precision(person: Callable[..., Any], dtype: torch.dtype) -> None:
    pipe, cid = fresh()
    pipe.text_encoder = copy.deepcopy(pipe.text_encoder)  # which other tests share
    pipe.vae = copy.deepcopy(pipe.vae)
    pipe.to(dtype)
    call = cid.inputs([person(1), person(2)], PROMPT, regions=[LEFT, RIGHT])
    assert call["prompt_embeds"].dtype == dtype
    call = cid.inputs(person(1), PROMPT, regions=[FULL])
    torch.testing.assert_close(
        first_layer(pipe, call), first_layer(pipe, cid.inputs(person(1), PROMPT)), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize("family", [0, 1])
def test_a_controlnet_that_comes_later_must_be_introduced(person: Callable[..., Any], family: int) -> None:
    pipe = small_pipe(family)
    network = controlnet(pipe)
    cid = attach_small(pipe, RELEASED[family])
    later = make("controlnet", family, pipe, network)
    options = {"num_inference_steps": 2} | KINDS["controlnet"][2]
    call = cid.inputs(person(1), PROMPT, regions=[FULL])
    with pytest.raises(PipelineError, match=r"add_controlnet\(pipe\.controlnet\)"):
        latents(later, call, **options)
    cid.add_controlnet(network)
    cid.add_controlnet(network)
    with_regions = latents(later, call, **options)
    close(with_regions, latents(later, cid.inputs(person(1), PROMPT), **options))
    cid.detach()
    assert not network._forward_pre_hooks
    assert not pipe.unet._forward_pre_hooks


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": [LEFT]}, r"2 people and 1 regions; give one for each"),
        (
            {"regions": [LEFT, (0.5, 0.1, 1.2, 0.9)]},
            r"regions\[1\]=\(0\.5, 0\.1, 1\.2, 0\.9\) lies outside the picture",
        ),
        ({"regions": [LEFT, (float("nan"), 0, 1, 1)]}, r"regions\[1\]=\(nan, 0, 1, 1\) lies outside"),
        ({"regions": [(0.4, 0, 0.4, 1), RIGHT]}, r"regions\[0\]=.* is empty, so its person is in no region"),
        ({"regions": [LEFT, None]}, r"regions\[1\] is None, so its person is in no region"),
        ({"regions": [LEFT, np.zeros((64, 64))]}, r"regions\[1\] is black all over, so its person is in no region"),
        ({"regions": [LEFT, LEFT]}, r"regions\[0\] is overlapped entirely by the others"),
        ({"regions": [FULL, RIGHT]}, r"regions\[1\] is overlapped entirely by the others"),
        ({"regions": [np.tri(64), np.tri(32).T]}, r"several sizes, 64x64, 32x32; give all masks in"),
        ({"regions": [LEFT, np.full((64, 64), 2.0)]}, r"regions\[1\].* from 0 to 1"),
        ({"regions": [LEFT, (0.1, 0.2, 0.3)]}, r"regions\[1\]=\(0\.1, 0\.2, 0\.3\) is no box; give four numbers"),
        ({"regions": [LEFT, "right.png"]}, r"right\.png"),
        ({"regions": "left"}, r"regions='left' is not allowed; give a list"),
        ({"regions": None, "prompt": ["a", "b", "c"]}, r"3 prompts with 2 identities: give regions"),
        (
            {"regions": None, "person_prompts": ["a", "b"]},
            r"person_prompts, face_text and merge_at of each person need",
        ),
        ({"regions": None, "person_scales": 0.5}, r"person_scales needs regions"),
        ({"person_scales": [1.0, float("inf")]}, r"person_scales must be finite"),
        ({"person_prompts": ["a", "b", "c"]}, r"3 person_prompts for 2 people"),
        ({"merge_at": [0.5, 1.5]}, r"merge_at must be between 0"),
        ({"base_ratio": 1.1}, r"base_ratio=1\.1 is not allowed; give a number from 0 to 1"),
        ({"part_scales": [{"chin": 1.0}, None]}, r"part_scales: unknown part 'chin'; known parts are face"),
        ({"part_scales": {"eyes": float("nan")}}, r"part_scales: eyes=nan is not allowed; give a number from 0 to 2"),
        ({"regions_end": 0.0}, r"regions_end=0\.0 is not allowed; give a number above 0"),
    ],
)
def test_bad_input_is_named(
    attached: Callable[..., Any], person: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    _, cid = attached()
    call = {"identity": [person(1), person(2)], "prompt": PROMPT, "regions": [LEFT, RIGHT]} | arguments
    with pytest.raises(InputError, match=message):
        cid.inputs(**call)


def test_masks_of_another_shape_than_the_picture(attached: Callable[..., Any], person: Callable[..., Any]) -> None:
    pipe, cid = attached()
    white = Image.new("L", (WIDTH, HEIGHT), 255)
    latents(pipe, cid.inputs(person(1), PROMPT, regions=[white]), num_inference_steps=1)
    call = cid.inputs(person(1), PROMPT, regions=[white.transpose(Image.Transpose.ROTATE_90)])
    with pytest.raises(InputError, match=f"masks in regions are {HEIGHT}x{WIDTH}, of another shape than the picture"):
        latents(pipe, call, num_inference_steps=1)


def test_a_person_s_words_must_fit_behind_the_prompt(attached: Callable[..., Any], person: Callable[..., Any]) -> None:
    _, cid = attached()
    with pytest.raises(PromptTooLongError, match="the prompt with person_prompts has"):
        cid.inputs(person(1), " ".join(["man"] * 60), regions=[LEFT], person_prompts=" ".join(["hat"] * 40))
