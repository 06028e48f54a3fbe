"""Whole runs of the reference implementation, reproduced through unmodified pipelines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from safetensors.torch import load_file

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.injection import LORA_NAME
from vectors import DIM, GOLDEN, VARIANTS

import recipe  # isort: skip
import runs  # isort: skip
from turns import by_turns

SCHEDULERS = {"EulerDiscreteScheduler": EulerDiscreteScheduler, "DDIMScheduler": DDIMScheduler}
MERGE_AT = {0: 0.05, 3: 0.375, 8: 1.0}
"""The reference's start_merge_step of 8 steps as our fraction."""

RUNS = {variant: list(runs.runs(variant == "microxl")) for variant in VARIANTS}
NAMES = sorted({name for names in RUNS.values() for name in names if name != "long_prompt"})
CASES = [case for case in by_turns(VARIANTS, NAMES) if case.values[1] in RUNS[case.values[0]]]


@pytest.fixture(scope="module")
def folded(golden: Path, base: Any) -> dict[str, ConsistentID]:
    adapters = {name: ConsistentID.from_pretrained(golden / name / "ConsistentID-v1.bin") for name in VARIANTS}
    for variant, cid in adapters.items():
        cid.attach(base(variant), fold=True)
    return adapters


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize(("variant", "name"), CASES)
def test_runs(folded: dict[str, ConsistentID], golden_identity: Any, variant: str, name: str) -> None:
    run = runs.runs(variant == "microxl")[name]
    cid = folded[variant]
    pipe = cid._pipe
    expected = load_file(GOLDEN / "cases" / f"pipe_{variant}.safetensors")
    expected = {key.removeprefix(f"{name}/"): x for key, x in expected.items() if key.startswith(f"{name}/")}
    embedding = recipe.tensor("faceid", (512,))
    embedding = embedding / np.linalg.norm(embedding) if run["found"] else np.zeros_like(embedding)
    who = golden_identity(variant, run["map"], embedding)
    pipe.scheduler = SCHEDULERS[run["scheduler"]["_class_name"]].from_config(run["scheduler"])
    steps: list[torch.Tensor] = []
    texts: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda _unet, _args, kwargs: texts.append(kwargs["encoder_hidden_states"].clone()), with_kwargs=True
    )
    inputs = cid.inputs(
        who,
        run["prompt"],
        run["negative_prompt"],
        merge_at=MERGE_AT[run["start_merge_step"]],
        guidance_scale=run["guidance_scale"],
        callback=lambda _pipe, _step, _t, tensors: steps.append(tensors["latents"].clone()),
    )
    pipe(
        **inputs,
        num_inference_steps=run["num_inference_steps"],
        height=run["height"],
        width=run["width"],
        latents=torch.from_numpy(recipe.tensor("loop.latents", (1, 4, 24, 16))),
        output_type="latent",
    )
    hook.remove()
    tokens = inputs["ip_adapter_image_embeds"][0][:, 0]
    torch.testing.assert_close(tokens, expected["faceid_tokens"][-len(tokens) :], atol=1e-5, rtol=0)
    for found, latents in zip(steps, expected["step_latents"], strict=True):
        assert relative(found[0], latents) < 1e-5
    if run["detail"]:
        change = run["start_merge_step"] + 1
        for index, text in enumerate(texts):
            phase = expected["ehs_phase1" if index < change else "ehs_phase2"][:, :77]
            torch.testing.assert_close(text, phase, atol=1e-5, rtol=0)
    if run["detail"] and variant == "microxl":
        pooled = torch.cat([inputs["negative_pooled_prompt_embeds"], inputs["pooled_prompt_embeds"]])
        torch.testing.assert_close(pooled, expected["text_embeds_phase1"], atol=1e-5, rtol=0)
        after = inputs["callback_on_step_end"].swaps[0].pooled[1]
        torch.testing.assert_close(after, expected["text_embeds_phase2"][1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["micro15", pytest.param("microxl", marks=pytest.mark.slow)])
@torch.no_grad()
def test_unet_with_adapter(golden: Path, base: Any, variant: str) -> None:
    """With the LoRA beside the weights; the runs above have it in them."""
    cid = ConsistentID.from_pretrained(golden / variant / "ConsistentID-v1.bin")
    cid.attach(base(variant))
    unet = cid._pipe.unet
    expected = load_file(GOLDEN / "cases" / f"modules_{variant}.safetensors")
    latents = torch.from_numpy(recipe.tensor("case3.latents", (2, 4, 16, 24)))
    text, tokens = torch.from_numpy(recipe.tensor(f"case3.ehs.{DIM}", (2, 81, DIM))).split([77, 4], dim=1)
    extra: dict[str, Any] = {"image_embeds": [tokens.unsqueeze(1)]}
    if variant == "microxl":
        extra["text_embeds"] = torch.from_numpy(recipe.tensor("case3.text_embeds", (2, 64)))
        extra["time_ids"] = torch.tensor([[192, 128, 0, 0, 192, 128]] * 2)

    def predict(t: int) -> torch.Tensor:
        return unet(latents, t, encoder_hidden_states=text, added_cond_kwargs=extra).sample

    def close(found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found, expected[f"case3.{name}"], atol=1e-5, rtol=0)

    for t in (981, 500, 1):
        close(predict(t), f"t{t}")
    for scale in (0.5, 0.0):
        cid.scale = scale
        close(predict(500), f"t500.ip_scale{scale:g}")
    unet.set_adapters([LORA_NAME], [0.0])
    close(predict(500), "t500.ip_scale0_lora0")
    cid.scale = 1.0
    close(predict(500), "t500.ip_scale1_lora0")
    unet.set_adapters([LORA_NAME], [1.0])
    pipe = cid._pipe
    cid.detach()
    close(predict(500), "t500.no_adapter_77")
    cid.attach(pipe)
    close(predict(500), "t500")


@pytest.mark.parametrize("variant", ["microxl", pytest.param("micro15", marks=pytest.mark.slow)])
def test_weights_are_told_their_family_by_the_pipeline(golden: Path, base: Any, tmp_path: Path, variant: str) -> None:
    """Both spellings are read for both families, so the spelling cannot decide."""
    state = torch.load(golden / variant / "ConsistentID-v1.bin", weights_only=True)
    spelling = {"image_proj": "image_proj_model", "image_proj_model": "image_proj"}
    torch.save({spelling.get(name, name): x for name, x in state.items()}, tmp_path / "w.bin")
    cid = ConsistentID.from_pretrained(tmp_path / "w.bin")
    assert cid.image_projection.shortcut == (variant == "micro15")
    cid.attach(base(variant))
    assert cid.image_projection.shortcut == (variant == "microxl")
    assert cid.spec == ConsistentID.from_pretrained(golden / variant / "ConsistentID-v1.bin").spec
    layers = json.loads((GOLDEN / "inventory" / f"{variant}.json").read_text())["attn_processor_names"]
    assert [f"{name}.processor" for name in cid._attached_layers] == layers
