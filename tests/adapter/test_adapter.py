"""Attaching, detaching, training and saving; and each trap on the way that must stay closed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import IPAdapterScaleCutoffCallback, PipelineCallback, SDCFGCutoffCallback
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from consistentid.adapter import encoding, injection
from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.prompt import FacialText, compose, facial_sentence
from consistentid.errors import IncompatibleIdentityError, InputError, PipelineError, PromptTooLongError
from consistentid.faces.parts import PARTS
from kinds import make
from small import CROSS, RELEASED, SMALL, attach_small, small_pipe
from turns import by_turns
from vectors import ID_DIM, WIDTH

PROMPT = "a man in a forest"
SIDE = 128
"""Of the pictures, in pixels: their latents have 16."""


@pytest.fixture
def pipe() -> Any:
    return small_pipe()


@pytest.fixture
def cid(pipe: Any) -> ConsistentID:
    return attach_small(pipe)


@pytest.fixture(scope="module")
def steady() -> ConsistentID:
    """The same, one for all tests that leave it as it is."""
    return attach_small(small_pipe())


def middle(pipe: Any) -> Any:
    """The cross-attention that is attached last."""
    return pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2


def composed(pipe: Any, prompt: str, sentence: str, visible: Sequence[str] = PARTS) -> FacialText:
    return compose(prompt, sentence, visible, SMALL, encoding.token_counter(pipe))


def run(pipe: Any, inputs: dict[str, Any], steps: int = 2, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    images: torch.Tensor = pipe(
        **inputs, num_inference_steps=steps, generator=generator, output_type="latent", height=SIDE, width=SIDE, **more
    ).images
    return images


def fingerprint(unet: Any) -> dict[str, Any]:
    """All that detaching must bring back."""
    return {
        "modules": [(name, id(module)) for name, module in unet.named_modules()],
        "processors": {name: id(processor) for name, processor in unet.attn_processors.items()},
        "parameters": [(name, id(x), x.requires_grad, x.sum().item()) for name, x in unet.named_parameters()],
        "config": dict(unet.config),
        "projection": unet.encoder_hid_proj,
        "adapters": sorted(unet.peft_config) if hasattr(unet, "peft_config") else None,
        "lora loaded": bool(unet._hf_peft_config_loaded),
        "hooks": list(unet._forward_pre_hooks),
        "saves": "save_pretrained" not in vars(unet),
    }


def add_style(unet: Any, name: str = "style") -> None:
    """Another LoRA, on some of the layers and one that ours leaves alone."""
    random = torch.Generator().manual_seed(7)
    state = {}
    for layer in ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.time_emb_proj"):
        module = unet.get_submodule(layer)
        module = getattr(module, "base_layer", module)
        state[f"{layer}.lora_A.weight"] = torch.randn(2, module.in_features, generator=random)
        state[f"{layer}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=random)
    unet.load_lora_adapter(state, prefix=None, adapter_name=name)


# ------------------------------------------------------------------------------------------------- attach and detach


def test_detach_leaves_no_trace(pipe: Any) -> None:
    pipe.unet.conv_in.weight.requires_grad_(False)
    before, picture = fingerprint(pipe.unet), run(pipe, {"prompt": PROMPT})
    cid = ConsistentID(SMALL)
    cid.attach(pipe)
    assert fingerprint(pipe.unet) != before
    assert isinstance(middle(pipe).processor, IPAdapterAttnProcessor2_0)
    cid.detach()
    assert fingerprint(pipe.unet) == before
    assert torch.equal(run(pipe, {"prompt": PROMPT}), picture)
    cid.detach()  # nothing to do
    assert fingerprint(pipe.unet) == before


def test_attached_detaches_whatever_happens(pipe: Any, person: Callable[..., Any]) -> None:
    before = fingerprint(pipe.unet)
    cid = ConsistentID(SMALL)

    def work() -> None:
        with cid.attached(pipe) as same:
            assert same is cid
            run(pipe, cid.inputs(person(), PROMPT))
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        work()
    assert fingerprint(pipe.unet) == before
    with pytest.raises(PipelineError, match=r"call attach\(pipe\) first"):
        cid.inputs(person(), PROMPT)


def test_loading_weights_into_a_pipeline_draws_no_random_numbers(pipe: Any) -> None:
    cid = ConsistentID(SMALL)
    with cid.attached(pipe):
        pass
    state = torch.get_rng_state()
    cid.attach(pipe)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fresh_lora_changes_nothing_and_fresh_id_layers_read_tokens_like_text(pipe: Any) -> None:
    cid = ConsistentID(SMALL)
    sample, text = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 48)
    with torch.no_grad():
        plain = pipe.unet(sample, 10, text).sample
        cid.attach(pipe)
        tokens = {"image_embeds": [torch.randn(1, 1, 4, 48)]}
        cid.scale = 0
        assert torch.equal(pipe.unet(sample, 10, text, added_cond_kwargs=tokens).sample, plain)
    layer = middle(pipe)
    assert torch.equal(layer.processor.to_k_ip[0].weight, layer.to_k.base_layer.weight)


def test_scale_zero_and_no_lora_equal_no_adapter_and_a_large_scale_differs(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    def picture(scale: float) -> torch.Tensor:
        cid.scale = scale
        assert cid.scale == scale
        return run(pipe, cid.inputs(person(), PROMPT, merge_at=1))

    normal = picture(1)
    assert (picture(20) - normal).abs().max() > 1e-2
    assert not torch.equal(picture(0), normal)
    pipe.set_adapters([injection.LORA_NAME], [0.0])
    off = picture(0)
    text = cid.inputs(person(), PROMPT, merge_at=1)
    cid.detach()
    plain = {name: text[name] for name in ("prompt_embeds", "negative_prompt_embeds", "guidance_scale")}
    torch.testing.assert_close(off, run(pipe, plain))


def test_scale_is_remembered_over_attach(pipe: Any, cid: ConsistentID) -> None:
    cid.detach()
    cid.scale = 0.25
    cid.attach(pipe)
    assert middle(pipe).processor.scale == [0.25]
    with pytest.raises(InputError, match="finite"):
        cid.scale = float("nan")


def test_a_second_attach_is_refused_and_harmless(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match=r"already attached; call detach\(\) first"):
        cid.attach(small_pipe())
    with pytest.raises(PipelineError, match=r"pipe\.unload_ip_adapter\(\)"):
        ConsistentID(SMALL).attach(pipe)
    run(pipe, cid.inputs(person(), PROMPT))


def test_an_attach_that_fails_midway_changes_nothing(pipe: Any) -> None:
    middle(pipe).set_attention_slice(1)  # the last layer
    before = fingerprint(pipe.unet)
    cid = ConsistentID(SMALL)
    with pytest.raises(PipelineError, match=r"SlicedAttnProcessor.*set_default_attn_processor"):
        cid.attach(pipe)
    assert fingerprint(pipe.unet) == before
    assert not cid.parameter_groups()["lora"]


def test_weights_of_another_base_are_refused(cid: ConsistentID) -> None:
    with pytest.raises(PipelineError, match="width 48, the pipeline's UNet reads 32"):
        ConsistentID(SMALL).attach(small_pipe(cross=32))
    cid.detach()
    pipe = small_pipe(channels=(8, 32))
    before = fingerprint(pipe.unet)
    with pytest.raises(PipelineError, match=r"do not fit the UNet's, \d+ differ, the first is \d+\.to_"):
        cid.attach(pipe)
    assert fingerprint(pipe.unet) == before


def test_networks_that_are_not_there_are_missed(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    pipe.text_encoder = None
    with pytest.raises(PipelineError, match="no text encoder"):
        cid.inputs(person(), PROMPT)
    offloaded = small_pipe()
    offloaded.unet.to("meta")
    with pytest.raises(PipelineError, match=r"call attach\(\) before enable_sequential_cpu_offload"):
        ConsistentID(SMALL).attach(offloaded)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableDiffusionInstructPix2PixPipeline", "guides by image and text"),
        ("StableDiffusionAdapterPipeline", "does not take ip_adapter_image_embeds, callback_on_step_end"),
        ("StableDiffusionSAGPipeline", "does not take callback_on_step_end"),
        ("StableDiffusion3Pipeline", "has no UNet"),
    ],
)
def test_pipelines_that_cannot_be_served_say_why(name: str, reason: str) -> None:
    cls = getattr(diffusers, name)
    with pytest.raises(PipelineError, match=f"{name} {reason}"):
        encoding.check_pipeline(cls.__new__(cls))


# ------------------------------------------------------------------------------------------------------- other LoRAs


def test_another_lora_stays_active_through_attach_and_detach(pipe: Any, person: Callable[..., Any]) -> None:
    cid = ConsistentID(SMALL)
    plain = run(pipe, {"prompt": PROMPT})
    add_style(pipe.unet)
    style, before = run(pipe, {"prompt": PROMPT}), fingerprint(pipe.unet)
    cid.attach(pipe)
    assert pipe.unet.active_adapters() == ["style", "consistentid"]
    with torch.no_grad():
        for parameter in cid.parameter_groups()["lora"]:
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    inputs = cid.inputs(person(), PROMPT)
    both = run(pipe, inputs)
    pipe.set_adapters(["consistentid"])
    ours = run(pipe, inputs)
    pipe.set_adapters(["style", "consistentid"])
    assert torch.equal(run(pipe, inputs), both)
    assert not torch.equal(both, ours)
    cid.detach()
    assert pipe.unet.active_adapters() == ["style"]
    assert fingerprint(pipe.unet) == before
    assert torch.equal(run(pipe, {"prompt": PROMPT}), style)
    assert not torch.equal(style, plain)


def test_a_lora_loaded_later_is_reported_with_the_line_to_type(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    add_style(pipe.unet)
    line = r"pipe\.set_adapters\(\['style', 'consistentid'\]\)"
    with pytest.raises(PipelineError, match=line):
        cid.inputs(person(), PROMPT)
    pipe.set_adapters(["style", "consistentid"])
    run(pipe, cid.inputs(person(), PROMPT))
    cid.detach()
    assert pipe.unet.active_adapters() == ["style"]
    run(pipe, {"prompt": PROMPT})


# ------------------------------------------------------------------------------------------------------------ folding


def weights(unet: Any) -> dict[str, torch.Tensor]:
    """Copies, so that a change in place is seen."""
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_folding_gives_the_same_picture_and_detaching_the_same_weights(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    unfolded = run(pipe, cid.inputs(person(), PROMPT))
    cid.detach()
    before, trace = weights(pipe.unet), fingerprint(pipe.unet)
    cid.attach(pipe, fold=True)
    assert not getattr(pipe.unet, "peft_config", None), "there is no LoRA left to compute"
    assert not same(weights(pipe.unet), before)
    folded = run(pipe, cid.inputs(person(), PROMPT))
    torch.testing.assert_close(folded, unfolded, atol=1e-4, rtol=1e-4)
    cid.detach()
    assert same(weights(pipe.unet), before)
    assert fingerprint(pipe.unet) == trace
    cid.attach(pipe)
    assert torch.equal(run(pipe, cid.inputs(person(), PROMPT)), unfolded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_come_back_bit_by_bit(cid: ConsistentID, dtype: torch.dtype) -> None:
    """Adding and subtracting would not bring them back."""
    cid.detach()
    other = small_pipe(seed=5).to(dtype)
    before = weights(other.unet)
    for _ in range(2):
        with cid.attached(other, fold=True):
            assert {x.dtype for x in other.unet.parameters()} == {dtype}
            assert not same(weights(other.unet), before)
        assert same(weights(other.unet), before)


def test_weights_come_back_after_an_error_and_after_a_move(pipe: Any, cid: ConsistentID) -> None:
    cid.detach()
    before = weights(pipe.unet)
    with pytest.raises(RuntimeError, match="mine"), cid.attached(pipe, fold=True):
        raise RuntimeError("mine")
    assert same(weights(pipe.unet), before)
    with cid.attached(pipe, fold=True):
        pipe.to(torch.float16)
    assert same(weights(pipe.unet), {name: x.half() for name, x in before.items()})


def test_a_fold_that_fails_midway_changes_nothing(pipe: Any, cid: ConsistentID) -> None:
    cid.detach()
    quantised = middle(pipe).to_out[0]
    quantised.weight = torch.nn.Parameter(torch.zeros(16, 16, dtype=torch.int8), requires_grad=False)
    before = weights(pipe.unet)
    with pytest.raises(PipelineError, match="quantised, no LoRA can be folded in; attach without fold"):
        cid.attach(pipe, fold=True)
    assert same(weights(pipe.unet), before)


def test_other_loras_work_beside_a_folded_one(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    """Loaded before or after, weighed, and taken away again."""
    inputs = cid.inputs(person(), PROMPT)
    add_style(pipe.unet)
    pipe.set_adapters(["style", "consistentid"], [0.5, 1.0])
    both = run(pipe, inputs)
    cid.detach()
    before = weights(pipe.unet)
    style = run(pipe, {"prompt": PROMPT})
    cid.attach(pipe, fold=True)
    torch.testing.assert_close(run(pipe, cid.inputs(person(), PROMPT)), both, atol=1e-4, rtol=1e-4)
    cid.detach()
    assert same(weights(pipe.unet), before)
    assert torch.equal(run(pipe, {"prompt": PROMPT}), style)

    pipe.unload_lora_weights()
    plain = weights(pipe.unet)
    cid.attach(pipe, fold=True)
    add_style(pipe.unet)
    pipe.set_adapters(["style"], [0.5])
    torch.testing.assert_close(run(pipe, cid.inputs(person(), PROMPT)), both, atol=1e-4, rtol=1e-4)
    cid.detach()
    assert torch.equal(run(pipe, {"prompt": PROMPT}), style)
    pipe.unload_lora_weights()
    assert same(weights(pipe.unet), plain)


@pytest.mark.parametrize("fold", [True, False])
def test_loras_fused_after_attach_are_noticed_before_the_weights_are_lost(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any], fold: bool
) -> None:
    cid.detach()
    add_style(pipe.unet)
    cid.attach(pipe, fold=fold)
    pipe.unet.fuse_lora()
    for use in (cid.detach, lambda: cid.inputs(person(), PROMPT)):
        with pytest.raises(PipelineError, match=r"pipe\.unfuse_lora\(\)"):
            use()
    pipe.unet.unfuse_lora()
    run(pipe, cid.inputs(person(), PROMPT))
    cid.detach()


def test_an_adapter_without_a_lora(pipe: Any, person: Callable[..., Any], tmp_path: Path) -> None:
    before = fingerprint(pipe.unet)
    cid = ConsistentID(replace(SMALL, lora_rank=0))
    for fold in (True, False):
        with cid.attached(pipe, fold=fold):
            run(pipe, cid.inputs(person(), PROMPT))
    assert fingerprint(pipe.unet) == before
    cid.save_pretrained(tmp_path)
    assert ConsistentID.from_pretrained(tmp_path).spec.lora_rank == 0


# ---------------------------------------------------------------------------------------------------------- offloading


@pytest.mark.parametrize(("first", "fold"), by_turns(["attach", "offload"], [True, False]))
def test_models_offloaded_to_the_cpu(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any], first: str, fold: bool
) -> None:
    """accelerate's hooks, with the CPU in the accelerator's place."""
    expected = run(pipe, cid.inputs(person(), PROMPT))
    cid.detach()
    before = weights(pipe.unet)
    if first == "attach":
        cid.attach(pipe, fold=fold)
    pipe.enable_model_cpu_offload(device="cpu")
    if first == "offload":
        cid.attach(pipe, fold=fold)
    for _ in range(2):
        found = run(pipe, cid.inputs(person(), PROMPT))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cid.detach()
    assert same(weights(pipe.unet), before)


def test_layers_offloaded_one_by_one(pipe: Any, cid: ConsistentID) -> None:
    """accelerate swaps the parameters of idle layers for empty ones; it cannot compute with the CPU as accelerator."""
    cid.detach()
    before = weights(pipe.unet)
    for fold in (False, True):
        cid.attach(pipe, fold=fold)
        attached = weights(pipe.unet)
        pipe.enable_sequential_cpu_offload(device="cpu")
        assert pipe.unet.device.type == "meta"
        assert cid.check_attached() is pipe
        if fold:
            with pytest.raises(PipelineError, match=r"pipe\.remove_all_hooks\(\) before detach\(\)"):
                cid.detach()
        pipe.remove_all_hooks()
        assert same(weights(pipe.unet), attached)
        cid.detach()
        assert same(weights(pipe.unet), before)


def test_own_modules_compute_where_the_pipeline_does_and_go_home(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device "meta", which computes nothing, in the accelerator's place."""
    seen: list[str] = []
    for module in (cid.image_projection, cid.facial_encoder):
        move = module.to
        monkeypatch.setattr(module, "to", lambda device, move=move: seen.append(str(device)) or move("cpu"))
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda _: torch.device("meta")))
    monkeypatch.setattr(encoding, "encode", lambda *_, **__: encoding.Encoded(*torch.zeros(2, 1, 77, 48), None, None))
    with monkeypatch.context() as broken:
        broken.setattr(cid.image_projection, "forward", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cid.inputs(person(), PROMPT)
    assert seen == ["meta", "meta", "cpu", "cpu"]


# ------------------------------------------------------------------------------------- a pipeline that lost the adapter


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pipe: pipe.enable_attention_slicing(1), "ID layers are gone"),
        (lambda pipe: pipe.unload_ip_adapter(), "ID layers are gone"),
        (lambda pipe: pipe.unload_lora_weights(), "LoRA was unloaded"),
        (lambda pipe: pipe.disable_lora(), r"pipe\.enable_lora\(\)"),
        (lambda pipe: setattr(pipe, "unet", small_pipe().unet), "unet was exchanged"),
    ],
)
def test_a_lost_adapter_is_noticed(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any], damage: Callable[[Any], Any], message: str
) -> None:
    damage(pipe)
    with pytest.raises(PipelineError, match=message):
        cid.inputs(person(), PROMPT)
    cid.detach()
    pipe.disable_attention_slicing()
    cid.attach(pipe)
    run(pipe, cid.inputs(person(), PROMPT))


def test_the_default_attention_cannot_be_set_while_attached(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    """diffusers would replace the processors of its own IP-Adapter without a word; of ours it knows nothing."""
    before = run(pipe, cid.inputs(person(), PROMPT))
    with pytest.raises(ValueError, match="Cannot call `set_default_attn_processor`"):
        pipe.unet.set_default_attn_processor()
    assert torch.equal(run(pipe, cid.inputs(person(), PROMPT)), before), "nothing was replaced"
    cid.detach()
    pipe.unet.set_default_attn_processor()
    cid.attach(pipe)
    torch.testing.assert_close(run(pipe, cid.inputs(person(), PROMPT)), before, atol=1e-5, rtol=1e-5)


def test_fused_qkv_is_noticed(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    cid.detach()
    pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(PipelineError, match=r"FusedAttnProcessor.*unfuse_qkv_projections"):
        cid.attach(pipe)
    pipe.unfuse_qkv_projections(vae=False)
    cid.attach(pipe)
    run(pipe, cid.inputs(person(), PROMPT))


# -------------------------------------------------------------------------------- diffusers' own calls while attached


def test_a_strength_changed_by_diffusers_own_call_is_noticed(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    inputs = cid.inputs(person(), PROMPT)
    usual = run(pipe, inputs)
    pipe.set_ip_adapter_scale(0.25)
    words = r"tokens in .* is 0\.25, but the adapter's scale is 1\.0.*cid\.scale = 1"
    for use in (lambda: cid.inputs(person(), PROMPT), lambda: run(pipe, inputs)):
        with pytest.raises(PipelineError, match=words):
            use()
    cid.scale = 1
    assert torch.equal(run(pipe, inputs), usual)
    pipe.set_ip_adapter_scale({"mid": 1.0})  # of the other blocks 0
    with pytest.raises(PipelineError, match=r"set_ip_adapter_scale\(\) or a callback changed it"):
        cid.inputs(person(), PROMPT)


def test_a_callback_changes_the_strength_for_its_own_call_alone(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    usual = run(pipe, cid.inputs(person(), PROMPT))
    cutoff = IPAdapterScaleCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    inputs = cid.inputs(person(), PROMPT, callback=cutoff)
    cut = run(pipe, inputs)
    assert not torch.equal(cut, usual)
    assert torch.equal(run(pipe, inputs), cut)
    assert torch.equal(run(pipe, cid.inputs(person(), PROMPT)), usual)

    def stop(pipe: Any, *_: Any) -> None:
        pipe.set_ip_adapter_scale(0)
        pipe._interrupt = True

    run(pipe, cid.inputs(person(), PROMPT, callback=stop))
    assert torch.equal(run(pipe, cid.inputs(person(), PROMPT)), usual)


def test_id_tokens_follow_guidance_that_a_callback_switches_off(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    """As if guidance had gone on with the strength that leaves the conditional branch alone."""

    def without_effect(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = 1 + 1e-6

    def conditional_half(pipe: Any, step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[1] if step == 0 else tensors["prompt_embeds"]}

    conditional_half.tensor_inputs = ["prompt_embeds"]  # type: ignore[attr-defined]
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    for number in (1, 3):
        more = {"steps": 4, "num_images_per_prompt": number}
        expected = run(pipe, cid.inputs(person(), PROMPT, callback=without_effect), **more)
        found = run(pipe, cid.inputs(person(), PROMPT, callback=conditional_half), **more)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        if number == 1:
            assert torch.equal(run(pipe, cid.inputs(person(), PROMPT, callback=cutoff), **more), found)
    with pytest.raises(PipelineError, match=r"1 rows for 3 pictures: the callback that switched guidance off"):
        run(pipe, cid.inputs(person(), PROMPT, callback=cutoff), **more)


def test_saving_a_pipeline_with_the_adapter_in_it_is_refused(pipe: Any, cid: ConsistentID, tmp_path: Path) -> None:
    for fold in (False, True):
        cid.detach()
        cid.attach(pipe, fold=fold)
        for saved in (pipe, pipe.unet):
            with pytest.raises(PipelineError, match=r"call detach\(\) first, then pipe\.save_pretrained"):
                saved.save_pretrained(tmp_path / "pipe")
        assert not list(tmp_path.iterdir())
    cid.detach()
    pipe.save_pretrained(tmp_path / "pipe")
    StableDiffusionPipeline.from_pretrained(tmp_path / "pipe")


def test_all_is_as_usual_after_inference_mode(person: Callable[..., Any]) -> None:
    """Whatever was made there can be used, trained and taken away outside; ComfyUI runs every node in that mode."""
    pipe, other = small_pipe(), small_pipe()

    def fresh() -> ConsistentID:
        torch.manual_seed(1)
        return ConsistentID(SMALL)

    with fresh().attached(pipe) as usual:
        expected = run(pipe, usual.inputs(person(), PROMPT))
    with torch.inference_mode():
        cid, who, made_inside = fresh(), person(), small_pipe()
        cid.attach(pipe)
        inputs = cid.inputs(who, PROMPT)
        assert torch.equal(run(pipe, inputs), expected)
        cid.detach()
    cid.attach(pipe)
    assert torch.equal(run(pipe, inputs), expected)
    for group in cid.parameter_groups().values():
        assert not any(x.is_inference() or not x.requires_grad for x in group)
    cid.id_tokens(who.embedding[None], who.face_features[None]).sum().backward()
    cid.detach()
    for fold in (True, False):
        with cid.attached(made_inside, fold=fold):
            run(made_inside, cid.inputs(who, PROMPT))
    with torch.inference_mode(), cid.attached(other, fold=True):
        run(other, cid.inputs(who, PROMPT))
    assert same(weights(other.unet), weights(small_pipe().unet))


# ----------------------------------------------------------------------------------------------------------- inference


def test_identity_matters_and_tokens_are_made_once(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    calls: list[int] = []
    hook = cid.image_projection.register_forward_hook(lambda *_: calls.append(1))
    first = cid.inputs(person(1), PROMPT)
    assert len(calls) == 2
    one = run(pipe, first, steps=3)
    assert len(calls) == 2, "tokens were computed again while sampling"
    hook.remove()
    assert not torch.equal(run(pipe, cid.inputs(person(2), PROMPT), steps=3), one)
    assert torch.equal(run(pipe, first, steps=3), one), "the same inputs give the same picture again"


def test_pictures_do_not_depend_on_their_neighbours_in_the_batch(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    def noise(number: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(number)]

    def pictures(inputs: dict[str, Any], number: int, each: int = 1) -> torch.Tensor:
        latents = torch.cat([torch.randn(1, 4, 16, 16, generator=one) for one in noise(number * each)])
        images: torch.Tensor = pipe(
            **inputs, num_inference_steps=3, latents=latents, num_images_per_prompt=each, output_type="latent",
            height=SIDE, width=SIDE,
        ).images  # fmt: skip
        return images

    alone = pictures(cid.inputs(person(), PROMPT), 1)
    torch.testing.assert_close(pictures(cid.inputs(person(), PROMPT), 1, each=3)[:1], alone)
    torch.testing.assert_close(pictures(cid.inputs(person(), [PROMPT, "a red hat"]), 2, each=2)[:1], alone)


def test_several_people_bring_their_tokens(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    inputs = cid.inputs([person(1), person(2)], PROMPT)
    tokens = inputs["ip_adapter_image_embeds"][0]
    assert tokens.shape == (2, 2, 4, 48)
    torch.testing.assert_close(tokens[1, 1], cid.inputs(person(2), PROMPT)["ip_adapter_image_embeds"][0][1, 0])
    run(pipe, inputs)
    with pytest.raises(InputError, match="3 prompts with 2 identities"):
        cid.inputs([person(1), person(2)], [PROMPT, "a red hat", "a forest"])
    with pytest.raises(InputError, match="parts is of one person"):
        cid.inputs([person(1), person(2)], PROMPT, parts={"eyes": "green"})


@pytest.mark.parametrize(
    ("merge_at", "steps", "first"), [(0, 5, 0), (0.1, 5, 1), (0.6, 5, 4), (0.6, 50, 31), (1, 5, 5)]
)
def test_the_merge_comes_after_a_fraction_of_the_steps(
    steady: ConsistentID, person: Callable[..., Any], merge_at: float, steps: int, first: int
) -> None:
    inputs = steady.inputs(person(), PROMPT, merge_at=merge_at)
    fused = steady.inputs(person(), PROMPT, merge_at=0)["prompt_embeds"]
    plain = steady.inputs(person(), PROMPT, merge_at=1)["prompt_embeds"]
    assert not torch.equal(fused, plain)
    pipe = type("Pipe", (), {"num_timesteps": steps})()
    rows = torch.cat([inputs["negative_prompt_embeds"], inputs["prompt_embeds"]])
    for step in range(steps):
        assert torch.equal(rows[1:], fused if step >= first else plain), step
        inputs["callback_on_step_end"](pipe, step, None, {"prompt_embeds": rows})
    assert torch.equal(rows[:1], inputs["negative_prompt_embeds"])


def test_own_layout_leaves_the_negative_text_alone_and_the_released_one_fuses_it(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    plain, _ = pipe.encode_prompt([PROMPT], "cpu", 1, True, ["blurry"])[::-1]
    assert torch.equal(cid.inputs(person(), PROMPT, "blurry")["negative_prompt_embeds"], plain)
    cid.spec = replace(cid.spec, fuse_negative=True)
    inputs = cid.inputs(person(), PROMPT, "blurry", merge_at=0)
    changed = (inputs["negative_prompt_embeds"] != plain).any(-1).nonzero()[:, 1].tolist()
    text = composed(pipe, PROMPT, facial_sentence(SMALL, PARTS))
    assert changed == list(text.positions)


def test_parts_and_face_text_reach_the_encoder(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    sentence = "The person has one face, green eyes, two ears, one nose, and one mouth."
    by_parts = cid.inputs(person(), PROMPT, parts={"eyes": "green eyes"})
    by_text = cid.inputs(person(), PROMPT, face_text=sentence)
    assert torch.equal(by_parts["prompt_embeds"], by_text["prompt_embeds"])
    expected = pipe.encode_prompt([f"{PROMPT}, {sentence}"], "cpu", 1, False)[0]
    assert torch.equal(by_parts["prompt_embeds"], expected)
    hidden = cid.inputs(person(hidden=("ears", "nose")), PROMPT)["prompt_embeds"]
    shorter = f"{PROMPT}, The person has one face, two eyes, and one mouth."
    assert torch.equal(hidden, pipe.encode_prompt([shorter], "cpu", 1, False)[0])
    described = replace(person(), face_text="Green eyes.")
    own = cid.inputs(described, PROMPT)["prompt_embeds"]
    longer = f"{PROMPT}, Green eyes. The person has one face, two ears, one nose, and one mouth."
    assert torch.equal(own, pipe.encode_prompt([longer], "cpu", 1, False)[0])
    for words in ({"parts": {"eyes": "green eyes"}}, {"face_text": sentence}):
        assert torch.equal(cid.inputs(described, PROMPT, **words)["prompt_embeds"], expected)


def test_a_part_counts_as_much_as_asked(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    def swap(**words: Any) -> tuple[torch.Tensor, torch.Tensor]:
        plain, fused = cid.inputs(person(), PROMPT, **words)["callback_on_step_end"].swaps[0].text
        return plain[0], fused[0]

    text = composed(pipe, PROMPT, facial_sentence(SMALL, PARTS))
    eyes, nose = (text.positions[text.words.index(word)] for word in ("eyes", "nose"))
    plain, trained = swap()
    assert torch.equal(swap(part_scales={"eyes": 1, "nose": 1.0})[1], trained)
    _, changed = swap(part_scales={"eyes": 0, "nose": 0.25})
    assert torch.equal(changed[eyes], plain[eyes])
    assert torch.allclose(changed[nose], plain[nose] + 0.25 * (trained[nose] - plain[nose]), atol=1e-6)
    others = [row for row in range(len(plain)) if row not in (eyes, nose)]
    assert torch.equal(changed[others], trained[others])
    for wrong, message in (({"chin": 1}, "unknown part 'chin'"), ({"eyes": -0.5}, "eyes=-0.5 is not allowed"),
                           ({"eyes": float("nan")}, "eyes=nan is not allowed")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            cid.inputs(person(), PROMPT, part_scales=wrong)
    with pytest.raises(InputError, match="part_scales is of one person"):
        cid.inputs([person(1), person(2)], PROMPT, part_scales={"eyes": 0.5})


def test_each_person_s_parts_count_as_much_as_asked(cid: ConsistentID, person: Callable[..., Any]) -> None:
    people, where = [person(1), person(2)], [(0, 0, 0.5, 1), (0.5, 0, 1, 1)]

    def fused(scales: Any) -> torch.Tensor:
        step = cid.inputs(people, PROMPT, regions=where, part_scales=scales)["callback_on_step_end"]
        return step.swaps[0].text[1][:, :-1]  # the last row tells of which call a text is

    trained, second, both = fused(None), fused([None, {"eyes": 0}]), fused({"eyes": 0})
    assert not torch.equal(second, trained)
    assert not torch.equal(second, both)
    assert torch.equal(fused([{"eyes": 0}, {"eyes": 0}]), both)


def test_the_merge_changes_only_words_of_parts(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    plain, fused = cid.inputs(person(), PROMPT)["callback_on_step_end"].swaps[0].text
    text = composed(pipe, PROMPT, facial_sentence(SMALL, PARTS))
    assert (plain != fused).any(-1)[0].nonzero()[:, 0].tolist() == list(text.positions)
    other = person()
    swapped = other.with_parts(eyes=person(5))
    fused_2 = cid.inputs(swapped, PROMPT)["callback_on_step_end"].swaps[0].text[1]
    eyes = text.positions[text.words.index("eyes")]
    assert (fused_2 != fused).any(-1)[0].nonzero()[:, 0].tolist() == [eyes]


def test_long_prompts(cid: ConsistentID, person: Callable[..., Any]) -> None:
    with pytest.warns(UserWarning, match=r"left out: 'two ears, one nose, and one mouth\.'") as caught:
        cid.inputs(person(), " ".join(["man"] * 65))
    assert caught[0].filename == __file__
    with pytest.raises(PromptTooLongError, match="the prompt has 90 tokens"):
        cid.inputs(person(), " ".join(["man"] * 90))
    with pytest.raises(PromptTooLongError, match="the negative_prompt has 90 tokens"):
        cid.inputs(person(), PROMPT, " ".join(["man"] * 90))
    cid.inputs(person(), PROMPT, " ".join(["man"] * 90), guidance_scale=1)  # never read


def test_the_user_s_callback_is_chained_with_the_tensors_it_asks_for(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    seen: list[tuple[int, list[str]]] = []

    class Own(PipelineCallback):
        @property
        def tensor_inputs(self) -> list[str]:
            return ["negative_prompt_embeds", "prompt_embeds"]

        def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
            seen.append((step_index, sorted(callback_kwargs)))
            return callback_kwargs

    run(pipe, cid.inputs(person(), PROMPT, callback=Own(cutoff_step_ratio=None, cutoff_step_index=0)))
    assert seen == [(0, ["negative_prompt_embeds", "prompt_embeds"]), (1, ["negative_prompt_embeds", "prompt_embeds"])]

    def zero(_pipe: Any, _step: int, _t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        assert list(tensors) == ["latents"]
        return {"latents": tensors["latents"] * 0}

    assert not run(pipe, cid.inputs(person(), PROMPT, callback=zero)).any()


@pytest.mark.parametrize("merge_at", [0.5, 0.75, 0.99])
def test_free_init_starts_each_round_from_the_plain_text(
    cid: ConsistentID, person: Callable[..., Any], merge_at: float
) -> None:
    """Also where the merge comes at the end of the last step, or never."""
    inputs = cid.inputs(person(), PROMPT, merge_at=merge_at)
    pipe = type("Pipe", (), {"num_timesteps": 4, "free_init_enabled": True})()
    rows = inputs["prompt_embeds"].clone()
    for _ in range(2):
        assert torch.equal(rows, inputs["prompt_embeds"])
        for step in range(4):
            inputs["callback_on_step_end"](pipe, step, None, {"prompt_embeds": rows})


def test_text_changed_between_inputs_and_the_call_is_an_error(
    pipe: Any, cid: ConsistentID, person: Callable[..., Any]
) -> None:
    inputs = cid.inputs(person(), PROMPT)
    with pytest.raises(PipelineError, match="none of the 2 rows of prompt_embeds"):
        run(pipe, inputs | {"prompt_embeds": inputs["prompt_embeds"] * 1.01})
    longer = {name: torch.randn(1, 2 * 77, 48) for name in ("prompt_embeds", "negative_prompt_embeds")}
    with pytest.raises(PipelineError, match="none of the 2 rows of prompt_embeds"):
        run(pipe, inputs | longer)


def test_a_prompt_equal_to_the_negative_one_is_refused(cid: ConsistentID, person: Callable[..., Any]) -> None:
    cid.spec = replace(cid.spec, plain_sentence=False)
    with pytest.raises(InputError, match="prompt and negative_prompt are the same text"):
        cid.inputs(person(), "", "")
    cid.inputs(person(), "", "", merge_at=0)
    cid.inputs(person(), "", "", guidance_scale=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merge_at": 1.5}, "merge_at must be between 0"),
        ({"merge_at": float("nan")}, "merge_at must be between 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number"),
        ({"face_text": "green eyes", "parts": {"eyes": "blue"}}, "either face_text"),
        ({"parts": {"chin": "round"}}, "unknown part 'chin'"),
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts for 1 prompts"),
        ({"prompt": []}, "at least one identity and one prompt"),
        ({"identity": []}, "at least one identity and one prompt"),
        ({"prompt": None}, "at least one identity and one prompt"),
    ],
)
def test_bad_arguments_are_named(
    steady: ConsistentID, person: Callable[..., Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        steady.inputs(**({"identity": person(), "prompt": PROMPT} | arguments))


def test_identities_of_other_networks_are_refused(cid: ConsistentID, person: Callable[..., Any]) -> None:
    cid.spec = replace(cid.spec, networks={"recogniser": "r@1"}, part_layout="square")
    cid.inputs(person(recogniser="r@1", part_layout="square"), PROMPT)
    for other in ({"recogniser": "r@2"}, {"recogniser": "r@1", "part_layout": "canvas"}, {}):
        with pytest.raises(IncompatibleIdentityError, match="identify the photo again"):
            cid.inputs(person(**other), PROMPT)
    cid.spec = replace(cid.spec, networks={}, clip_dim=32)
    with pytest.raises(IncompatibleIdentityError, match=rf"features of {WIDTH}, the adapter expects {ID_DIM} and 32"):
        cid.inputs(person(), PROMPT)


def test_people_seen_by_another_recogniser_than_released_weights_know_are_told_by_name(
    pipe: Any, person: Callable[..., Any]
) -> None:
    known = {"image_encoder": "CLIP-ViT-H-14-laion2B-s32B-b79K@1", "part_layout": "canvas"}
    cid = attach_small(pipe, RELEASED[0])
    with pytest.warns(UserWarning, match=r"recogniser: this identity has antelope@2, expected w600k_r50"):
        cid.inputs(person(recogniser="antelope@2", **known), PROMPT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        cid.inputs(person(recogniser="w600k_r50@3", **known), PROMPT)


def test_half_precision_pipelines(person: Callable[..., Any]) -> None:
    pipe = small_pipe().to(torch.bfloat16)
    before = fingerprint(pipe.unet)
    cid = ConsistentID(SMALL)
    cid.attach(pipe)
    inputs = cid.inputs(person(), PROMPT)
    assert {inputs[name].dtype for name in inputs if name.endswith("embeds") and "ip" not in name} == {torch.bfloat16}
    assert {x.dtype for x in pipe.unet.parameters()} == {torch.bfloat16}
    assert run(pipe, inputs).isfinite().all()
    cid.detach()
    assert fingerprint(pipe.unet) == before


# ------------------------------------------------------------------------------------------------------------ training


def test_training_reaches_every_group_and_saving_takes_the_trained_values(
    tmp_path: Path, person: Callable[..., Any]
) -> None:
    """One step of training as the trainer does it, on a UNet of another shape than the released ones."""
    torch.manual_seed(0)
    pipe = small_pipe()
    pipe.unet.requires_grad_(False)
    cid = ConsistentID(SMALL)
    cid.attach(pipe)
    groups = cid.parameter_groups()
    assert {name: len(group) for name, group in groups.items()} == {
        "image_projection": len(list(cid.image_projection.parameters())),
        "facial_encoder": len(list(cid.facial_encoder.parameters())),
        "ip_layers": 8,
        "lora": 64,
    }
    people = [person(1), person(2, hidden=("ears",))]
    texts = [composed(pipe, "a man", facial_sentence(SMALL, one.visible_parts), one.visible_parts) for one in people]
    text = pipe.encode_prompt([one.full for one in texts], "cpu", 1, False)[0].detach()
    optimizer = torch.optim.SGD([x for group in groups.values() for x in group], lr=0.1)
    for step in range(2):  # the LoRA's first half learns once its second half is not zero
        embeddings, faces = (torch.stack([getattr(x, name) for x in people]) for name in ("embedding", "face_features"))
        tokens = cid.id_tokens(embeddings, faces)
        fused = cid.fuse(text, *cid.arrange(texts, torch.stack([x.part_features for x in people])))
        tokens_given = {"image_embeds": [tokens.unsqueeze(1)]}
        noise = pipe.unet(torch.randn(2, 4, 16, 16), 10, fused, added_cond_kwargs=tokens_given).sample
        optimizer.zero_grad()
        noise.square().mean().backward()
        for name, group in groups.items():
            idle = [x for x in group if x.grad is None or not x.grad.any()]
            assert not idle or (name == "lora" and step == 0), f"{len(idle)} of {name} learn nothing"
        optimizer.step()
    ours = {id(x) for group in groups.values() for x in group}
    assert all(x.grad is None for x in pipe.unet.parameters() if id(x) not in ours)

    trained = cid.state_dict()
    cid.save_pretrained(tmp_path)
    inputs = cid.inputs(people[0], PROMPT)
    picture = run(pipe, inputs)
    cid.detach()
    assert [id(x) for x in cid.parameter_groups()["lora"]] == [id(x) for x in groups["lora"]]
    again = ConsistentID.from_pretrained(tmp_path)
    with again.attached(pipe):
        assert all(torch.equal(x, trained[name]) for name, x in again.state_dict().items())
        torch.testing.assert_close(run(pipe, again.inputs(people[0], PROMPT)), picture)
    with cid.attached(pipe):
        assert torch.equal(run(pipe, cid.inputs(people[0], PROMPT)), picture)


def test_batched_fusing_equals_one_by_one(pipe: Any, cid: ConsistentID, person: Callable[..., Any]) -> None:
    people = [person(1), person(2, hidden=("ears", "face")), person(3, hidden=PARTS)]
    texts = [composed(pipe, "a man", "nose, face and eyes", one.visible_parts) for one in people]
    text = torch.randn(3, 77, 48)
    with torch.no_grad():
        together = cid.fuse(text, *cid.arrange(texts, torch.stack([x.part_features for x in people])))
        for row, one in enumerate(people):
            alone = cid.fuse(text[row : row + 1], *cid.arrange(texts[row : row + 1], one.part_features.unsqueeze(0)))
            torch.testing.assert_close(together[row : row + 1], alone)
    assert torch.equal(together[2], text[2])


# ---------------------------------------------------------------------------------------------------- layers by name


@pytest.mark.parametrize("family", [0, 1])
def test_motion_modules_do_not_shift_the_layers(family: int) -> None:
    """With silent motion modules a frame is what the plain UNet makes of it, adapter included."""
    pipe = small_pipe(family)
    cid = attach_small(pipe)
    cid.detach()
    moving = make("animatediff", family, pipe)
    with torch.no_grad():
        for name, parameter in moving.unet.named_parameters():
            if "motion_modules" in name and ".proj_out." in name:
                parameter.zero_()
    sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, CROSS)
    extra = {"image_embeds": [torch.randn(1, 1, 4, CROSS)]}
    if family:
        extra |= {"text_embeds": torch.randn(1, 16), "time_ids": torch.ones(1, 6)}
        moving.unet.add_embedding.load_state_dict(pipe.unet.add_embedding.state_dict())  # diffusers leaves it random

    @torch.no_grad()
    def frame(of: Any, sample: torch.Tensor) -> torch.Tensor:
        with cid.attached(of):
            out: torch.Tensor = of.unet(sample, 10, text, added_cond_kwargs=extra).sample
            return out

    still = frame(pipe, sample)
    moved = frame(moving, sample.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(moved, still, atol=1e-4, rtol=1e-4)
