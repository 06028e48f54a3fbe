"""The layers that the adapter lends to a UNet: ID layers in the attention processors, LoRA beside or in its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from consistentid.adapter.layouts import layer_names
from consistentid.adapter.long_text import Reader
from consistentid.adapter.processors import regional
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import PipelineError

LORA_NAME = "consistentid"
"""Name of the adapter's LoRA within PEFT, for `pipe.set_adapters`."""

_PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
_SIDES = {"down": "lora_A", "up": "lora_B"}
_BLOCK_ORDER = ("down_blocks", "up_blocks", "mid_block")


def attention_layers(unet: Any) -> dict[str, Any]:
    """Attention layers by name, in the order that checkpoints number them; motion modules have no number.

    Raises:
        PipelineError: the layers do not alternate between self- and cross-attention.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    names = [name for name in names if name.endswith((".attn1", ".attn2")) and "motion_modules" not in name]
    names.sort(key=lambda name: _BLOCK_ORDER.index(name.split(".")[0]))
    if not names or [name[-1] for name in names] != ["1", "2"] * (len(names) // 2):
        raise PipelineError(
            "the UNet's attention layers are not pairs of self- and cross-attention; use another base model"
        )
    return {name: unet.get_submodule(name) for name in names}


def fresh_layers(layers: Mapping[str, Any], spec: AdapterSpec) -> dict[str, nn.Parameter]:
    """Layers to start training from: ID layers that read tokens like text, and a LoRA that changes nothing yet."""
    fresh = {}
    for name, shape in _shapes(layers, spec).items():
        weight = torch.zeros(shape)
        if "_ip." in name:
            index, _, projection = name.partition(".")
            layer = list(layers.values())[int(index)]
            weight = getattr(layer, projection.removesuffix("_ip.weight")).weight.detach().float().clone()
        elif ".down." in name:
            nn.init.normal_(weight, std=1 / max(spec.lora_rank, 1))
        fresh[name] = nn.Parameter(weight)
    return fresh


def check_sizes(
    unet: Any, layers: Mapping[str, Any], spec: AdapterSpec, parameters: Mapping[str, nn.Parameter]
) -> None:
    """Makes sure that the adapter's layers fit a UNet.

    Raises:
        PipelineError: they do not; the message names the first layer that differs.
    """
    if (width := unet.config.cross_attention_dim) != spec.text_dim:
        raise PipelineError(
            f"the adapter is made for text of width {spec.text_dim}, the pipeline's UNet reads {width}:"
            " SD1.5 weights need an SD1.5 pipeline, SDXL weights an SDXL pipeline"
        )
    wanted = _shapes(layers, spec)
    found = {name: tuple(x.shape) for name, x in parameters.items()}
    wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if parameters and wrong:
        raise PipelineError(
            f"the adapter's attention layers do not fit the UNet's, {len(wrong)} differ, the first is {wrong[0]}:"
            f" adapter {found.get(wrong[0])}, UNet {wanted.get(wrong[0])}; use the base model it was trained on"
        )


def add_id_layers(
    unet: Any,
    layers: Mapping[str, Any],
    parameters: Mapping[str, nn.Parameter],
    tokens: int,
    reader: Reader,
    undo: ExitStack,
) -> None:
    """Puts diffusers' IP-Adapter processors into the cross-attention layers; `undo` gets what takes them out again.

    They ask `reader` whether the text is a long one.

    Raises:
        PipelineError: the UNet has another image adapter or changed attention processors.
    """
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    if unet.encoder_hid_proj is not None:
        raise PipelineError("the pipeline already has an image adapter; call pipe.unload_ip_adapter() first")
    undo.callback(unet.register_to_config, encoder_hid_dim_type=unet.config.encoder_hid_dim_type)
    undo.callback(setattr, unet, "encoder_hid_proj", None)
    undo.callback(unet.register_forward_pre_hook(_follow_guidance, with_kwargs=True).remove)
    # the tokens come finished: computed once instead of at every step, and without state between images
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([nn.Identity()])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    for index, layer in enumerate(layers.values()):
        if index % 2 == 0:
            continue
        old = layer.processor
        with torch.device("meta"):  # the weights are ours, so none are drawn
            new = regional(_id_processor(old))(layer.to_k.out_features, layer.to_k.in_features, num_tokens=(tokens,))
        new.to_k_ip[0].weight = parameters[f"{index}.to_k_ip.weight"]
        new.to_v_ip[0].weight = parameters[f"{index}.to_v_ip.weight"]
        new.reader = reader
        undo.callback(layer.set_processor, old)
        layer.set_processor(new)
    undo.callback(unet.register_forward_pre_hook(reader.read_unet, with_kwargs=True).remove)


def add_reader(controlnet: Any, reader: Reader, undo: ExitStack) -> None:
    """Lets a ControlNet, or each of several, find its text in a long one."""
    for network in getattr(controlnet, "nets", [controlnet]):
        if network in reader.controlnets:
            continue
        reader.controlnets.add(network)
        undo.callback(reader.controlnets.discard, network)
        undo.callback(network.register_forward_pre_hook(reader.read_controlnet, with_kwargs=True).remove)


def forbid_saving(pipe: Any, undo: ExitStack) -> None:
    """Refuses `save_pretrained` of the pipeline and its UNet, whose folder nobody could load, until `undo`."""
    for saved in (pipe, pipe.unet):
        undo.callback(vars(saved).pop, "save_pretrained")
        vars(saved)["save_pretrained"] = _refuse_saving


def _refuse_saving(*_: Any, **__: Any) -> None:
    raise PipelineError(
        "the adapter is attached, and a folder saved now could not be loaded: call detach() first, then"
        " pipe.save_pretrained(); the adapter itself is saved by its own save_pretrained()"
    )


def set_scale(layers: Mapping[str, Any], scale: float) -> None:
    """Strength of the ID tokens in every cross-attention layer."""
    for layer in list(layers.values())[1::2]:
        layer.processor.scale = [scale]


def check_scale(layers: Mapping[str, Any], scale: float) -> None:
    """Makes sure that the ID tokens still have this strength: diffusers' own calls and callbacks change it, too.

    Raises:
        PipelineError: they have another one; the message says what to type.
    """
    for name, layer in list(layers.items())[1::2]:
        if layer.processor.scale != [scale]:
            raise PipelineError(
                f"the strength of the ID tokens in {name} is {layer.processor.scale[0]}, but the adapter's scale is"
                f" {scale}: pipe.set_ip_adapter_scale() or a callback changed it; set the adapter's scale, as in"
                f" cid.scale = {scale}, to the strength that you want"
            )


def _follow_guidance(unet: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before each run of the UNet: where guidance was switched off since the call began, so are its ID tokens.

    A callback can take the unconditional rows from the text, but it does not see the ID tokens, of which those come
    first, too.

    Raises:
        PipelineError: the rows of the text do not fit the pictures.
    """
    given = inspect.signature(unet.forward).bind(*args, **kwargs).arguments
    pictures, text, added = given["sample"], given.get("encoder_hidden_states"), given.get("added_cond_kwargs")
    if text is None or not added or "image_embeds" not in added:
        return args, kwargs
    if len(text) % len(pictures):
        raise PipelineError(
            f"the text has {len(text)} rows for {len(pictures)} pictures: the callback that switched guidance off kept"
            " too few of them, as diffusers' CFG cutoff callbacks do; sample one picture a call, or use a callback that"
            " keeps the conditional half, prompt_embeds.chunk(2)[-1]"
        )
    tokens = [x[len(text) :] if len(x) == 2 * len(text) else x for x in added["image_embeds"]]
    return args, kwargs | {"added_cond_kwargs": added | {"image_embeds": tokens}}


def add_lora(unet: Any, layers: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], undo: ExitStack) -> None:
    """Adds the LoRA next to any other that is loaded; `undo` gets what removes it again."""
    active = _active_loras(unet)
    # what was made inside torch.inference_mode() can never be trained
    trainable = [x for x in unet.parameters() if x.requires_grad and not x.is_inference()]
    targets = {
        (f"{name}.{theirs}", ab): parameters[f"{index}.{ours}_lora.{side}.weight"]
        for index, name in enumerate(layers)
        for ours, theirs in _PROJECTIONS.items()
        for side, ab in _SIDES.items()
    }
    undo.callback(_remove_lora, unet)
    # by layer name and without a prefix: loading by number goes wrong where motion modules lie between
    state = {f"{target}.{ab}.weight": parameter.detach() for (target, ab), parameter in targets.items()}
    unet.load_lora_adapter(state, prefix=None, adapter_name=LORA_NAME, low_cpu_mem_usage=True)
    for (target, ab), parameter in targets.items():
        getattr(unet.get_submodule(target), ab)[LORA_NAME].weight = parameter
    unet.set_adapter([*active, LORA_NAME])  # loading one has switched the others off
    for parameter in [*trainable, *parameters.values()]:  # and has frozen the rest of the UNet
        parameter.requires_grad_(True)


def fold_lora(layers: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], undo: ExitStack) -> None:
    """Adds the LoRA to the weights themselves, which costs no time while sampling; `undo` puts the old weights back.

    The old weights are kept, on the CPU: subtracting would leave rounding errors, large ones in half precision.

    Raises:
        PipelineError: the weights are quantised.
    """
    for index, layer in enumerate(layers.values()):
        for ours, theirs in _PROJECTIONS.items():
            linear = layer.get_submodule(theirs)
            linear = getattr(linear, "base_layer", linear)  # below another LoRA
            old = linear.weight.data
            if not old.is_floating_point():
                raise PipelineError("the UNet's weights are quantised, no LoRA can be folded in; attach without fold")
            up, down = (parameters[f"{index}.{ours}_lora.{side}.weight"].detach().float() for side in ("up", "down"))
            undo.callback(_restore, linear, old.cpu())
            _set_weight(linear, (old.float() + up @ down).to(old.dtype))


def _restore(linear: Any, old: torch.Tensor) -> None:
    _set_weight(linear, old.to(linear.weight))  # the pipeline may have been moved in between


def _set_weight(linear: Any, new: torch.Tensor) -> None:
    made_in_inference_mode = linear.weight.is_inference()  # as ComfyUI loads pipelines; it takes only its like
    with torch.inference_mode(made_in_inference_mode):
        linear.weight.data = new.clone() if made_in_inference_mode else new


def id_processors(layers: Mapping[str, Any]) -> list[Any]:
    """The processors of the cross-attention layers, in order."""
    return [layer.processor for layer in list(layers.values())[1::2]]


def check_id_layers(unet: Any, layers: Mapping[str, Any], processors: Sequence[Any]) -> None:
    """Makes sure that the processors with the ID layers are still in the UNet.

    Raises:
        PipelineError: they are not; the message says what to type.
    """
    for name, layer in layers.items():
        if unet.get_submodule(name) is not layer:
            raise PipelineError("pipe.unet was exchanged since attach(); call detach() and attach(pipe) again")
    for name, found, ours in zip(list(layers)[1::2], id_processors(layers), processors, strict=True):
        if found is not ours:
            raise PipelineError(
                f"the ID layers are gone from {name}: attention slicing, fused QKV, xformers or another image adapter"
                " replaced them; undo that, then call detach() and attach(pipe) again"
            )


def check_lora(unet: Any, layers: Mapping[str, Any]) -> None:
    """Makes sure that the LoRA that `add_lora` added is still there and switched on.

    Raises:
        PipelineError: it is not; the message says what to type.
    """
    for layer in layers.values():
        for target in _PROJECTIONS.values():
            module = layer.get_submodule(target)
            if LORA_NAME not in getattr(module, "lora_A", {}):
                raise PipelineError("the adapter's LoRA was unloaded; call detach() and attach(pipe) again")
            if module.disable_adapters:
                raise PipelineError("the pipeline's LoRAs are switched off; call pipe.enable_lora()")
            if LORA_NAME not in module.active_adapters:
                names = [*_active_loras(unet), LORA_NAME]
                raise PipelineError(f"the adapter's LoRA is switched off; call pipe.set_adapters({names})")


def fused_loras(layers: Mapping[str, Any]) -> list[list[str]]:
    """The LoRAs that `pipe.fuse_lora()` has put into the weights, for each projection of each layer."""
    targets = [layer.get_submodule(target) for layer in layers.values() for target in _PROJECTIONS.values()]
    return [list(getattr(target, "merged_adapters", ())) for target in targets]


def _shapes(layers: Mapping[str, Any], spec: AdapterSpec) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, layer in enumerate(layers.values()):
        for name in layer_names(index):
            projection = layer.get_submodule(_PROJECTIONS[name.partition("_lora")[0].removesuffix("_ip.weight")])
            size = {"down": (spec.lora_rank, projection.in_features), "up": (projection.out_features, spec.lora_rank)}
            shapes[f"{index}.{name}"] = size.get(name.split(".")[1], (projection.out_features, projection.in_features))
    return shapes


def _id_processor(old: Any) -> Any:
    from diffusers.models import attention_processor as ap

    known = {
        ap.AttnProcessor: ap.IPAdapterAttnProcessor,
        ap.AttnProcessor2_0: ap.IPAdapterAttnProcessor2_0,
        ap.XFormersAttnProcessor: ap.IPAdapterXFormersAttnProcessor,
    }
    if type(old) not in known:
        raise PipelineError(
            f"the UNet's attention uses {type(old).__name__}, which has no counterpart with ID tokens; call"
            " pipe.unet.set_default_attn_processor() (and disable_attention_slicing(), unfuse_qkv_projections()) first"
        )
    return known[type(old)]


def _active_loras(unet: Any) -> list[str]:
    if not getattr(unet, "peft_config", None):
        return []
    names = unet.active_adapters()
    return [names] if isinstance(names, str) else list(names)


def _remove_lora(unet: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    active = [name for name in _active_loras(unet) if name != LORA_NAME]
    if LORA_NAME in getattr(unet, "peft_config", {}):
        unet.delete_adapters(LORA_NAME)
    if active:
        unet.set_adapter(active)
    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer) and not module.lora_A and not module.lora_embedding_A:  # ours alone
            unet.set_submodule(name, module.get_base_layer())
    if not getattr(unet, "peft_config", None):
        unet.unload_lora()
