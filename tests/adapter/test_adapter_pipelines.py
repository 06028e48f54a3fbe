"""In every pipeline the right rows reach the UNet at the right step, and detaching leaves no trace."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from kinds import KINDS, latents, make
from small import CROSS, RELEASED, attach_small, small_pipe

STEPS, MERGED = 3, 2
"""Of three steps the last sees the fused text."""

GUIDED = ("negative", "positive")
CASES = [(kind, family, guided) for kind in KINDS for family in (0, 1) for guided in (True, False)]
CASES = [case for case in CASES if case[0] != "lcm" or not case[2]]
# Every kind, with the families and with and without guidance by turns; the others of the product are slow.
QUICK = [(kind, number % 2, number % 4 in (0, 3) and kind != "lcm") for number, kind in enumerate(KINDS)]
CASES = [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES]


@contextmanager
def spying(unet: Any) -> Iterator[list[dict[str, Any]]]:
    """What the UNet is given at each step."""
    seen: list[dict[str, Any]] = []

    def note(_unet: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        extra = kwargs["added_cond_kwargs"]
        given = {"text": kwargs["encoder_hidden_states"], "tokens": extra["image_embeds"][0]}
        if "text_embeds" in extra:
            given["pooled"] = extra["text_embeds"]
        seen.append({name: tensor.clone() for name, tensor in given.items()})

    hook = unet.register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    hook.remove()


def names_of(rows: torch.Tensor, known: dict[str, torch.Tensor]) -> list[str]:
    """Which of the known tensors each row is, to the last bit."""
    found = [[name for name, one in known.items() if torch.equal(row, one)] for row in rows]
    assert all(len(names) == 1 for names in found), found
    return [names[0] for names in found]


def numbered(name: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{name}{index}": row for index, row in enumerate(rows)}


def expected_rows(branches: Sequence[str], prompts: int, images: int, frames: int) -> list[str]:
    one = [str(index) for index in range(prompts) for _ in range(images)]
    return [f"{branch}{number}" for branch in branches for number in one for _ in range(frames)]


@pytest.mark.parametrize(("kind", "family", "guided"), CASES)
def test_rows(person: Callable[..., Any], kind: str, family: int, guided: bool) -> None:
    pipe = make(kind, family, small_pipe(family))
    options = dict(KINDS[kind][2])
    plain = {"prompt": "a red hat", "num_inference_steps": 1, **options}
    before = latents(pipe, plain)
    parameters = {name: parameter.clone() for name, parameter in pipe.unet.state_dict().items()}

    prompts = ["a man in a forest", "a woman, smiling"]
    images = 2
    if kind == "animatediff":
        prompts, images = prompts[:1], 1
        counts: dict[str, int] = {}
    else:
        counts = {"num_images_per_prompt": images}
    for name in ("image", "mask_image", "control_image"):
        if name in options:
            options[name] = [options[name]] * len(prompts)
    cid = attach_small(pipe, RELEASED[family])
    scale = 5.0 if guided else 1.0
    if type(pipe).__name__ == "LatentConsistencyModelPipeline":
        scale = 8.0  # its guidance is no second evaluation
    inputs = cid.inputs(person(), prompts, "blurry, dull", merge_at=1 / STEPS, guidance_scale=scale)
    assert ("negative_prompt_embeds" in inputs) == guided
    with spying(pipe.unet) as seen:
        latents(pipe, inputs, num_inference_steps=STEPS, **counts, **options)

    swaps = inputs["callback_on_step_end"].swaps
    known: dict[str, dict[str, torch.Tensor]] = {"text": {}, "tokens": {}, "pooled": {}}
    if guided:
        known["text"] |= numbered("negative", inputs["negative_prompt_embeds"])
    for swap in swaps:
        for name, change in (("text", swap.text), ("pooled", swap.pooled)):
            if change is not None:
                known[name] |= numbered("positive", change[0]) | numbered("fused", change[1])
    if guided and family == 1:
        known["pooled"] |= numbered("negative", inputs["negative_pooled_prompt_embeds"][:1])
    tokens = inputs["ip_adapter_image_embeds"][0]
    assert tokens.shape == (1 + guided, 1, 4, CROSS)
    known["tokens"] = {"positive": tokens[-1]} | ({"negative": tokens[0]} if guided else {})

    assert len(seen) == STEPS
    branches = GUIDED if guided else GUIDED[1:]
    if kind == "pag":  # its perturbed branch comes last, guided or not
        branches = (*branches, "positive")
    frames = options.get("num_frames", 1)
    for step, given in enumerate(seen):
        merged = tuple("fused" if name == "positive" and step >= MERGED else name for name in branches)
        assert names_of(given["text"], known["text"]) == expected_rows(merged, len(prompts), images, frames), step
        rows = [name for name in branches for _ in range(len(prompts) * images)]
        assert names_of(given["tokens"], known["tokens"]) == rows, step
        if family == 1:
            pooled = expected_rows(merged, len(prompts), images, 1)
            pooled = ["negative0" if name.startswith("negative") else name for name in pooled]
            assert names_of(given["pooled"], known["pooled"]) == pooled, step

    cid.detach()
    after = pipe.unet.state_dict()
    assert after.keys() == parameters.keys()
    assert all(torch.equal(after[name], parameters[name]) for name in after)
    assert torch.equal(latents(pipe, plain), before)
