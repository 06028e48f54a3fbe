"""The networks of a preset, loaded: whatever is wrong with their files becomes one error that names the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consistentid.errors import CheckpointError, ConsistentIDError, InputError, first_line
from consistentid.faces.analyzer import Detector, FaceAnalyzer
from consistentid.faces.detection import OnnxDetector
from consistentid.faces.from_labels import LabelDetector
from consistentid.faces.guard import DrawingGuard
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.parsing import FaceParser
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.reading import read_json
from consistentid.files.weights import check_finite, check_network, fingerprint
from consistentid.presets.components import component_classes
from consistentid.presets.download import UNREACHABLE, offline
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset
from consistentid.presets.settings import SAMPLERS, Sampler
from consistentid.presets.single_file import load_single_file

_MISMATCH = re.compile(r"size mismatch for (\S+): .*?Size\(\[([\d, ]*)\]\).*?Size\(\[([\d, ]*)\]\)", re.DOTALL)
"""What torch says of weights of another shape: layer, their shape, and the network's."""

TEXT_PROJECTION = "text_projection.safetensors"
"""File beside a base's text encoder with what takes its text into the space of the preset's image encoder."""


_CONFIGS = (
    "model_index.json", "config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "tokenizer.json",
)  # fmt: skip
"""Files that libraries read beside weights; all are mappings."""


@contextmanager
def loading(role: str, network: Network) -> Iterator[None]:
    """Errors of other libraries about a network's files as one that names the network, and a damaged file of it."""
    try:
        _check_configs(network)
        yield
    except CheckpointError:
        _blame_damage(role, network)
        raise
    except ConsistentIDError:
        raise
    except Exception as error:  # a broken file makes loaders raise nearly anything
        words, reason = offline(error), first_line(error)
        if words and network.path and network.path.is_dir():  # libraries ask the hub for what a folder lacks
            reason = "one of its files is missing, or is not what it should be"
        elif words:
            raise CheckpointError(f"{role}: {network}: {words}") from error
        _blame_damage(role, network)
        remedy = "get its files again or correct the preset" if network.path else UNREACHABLE
        raise CheckpointError(f"{role}: {network} cannot be loaded ({reason}); {remedy}") from error


def _check_configs(network: Network) -> None:
    """Refuses settings that are none: libraries take some of them for the name of a repository, and ask the hub.

    Raises:
        CheckpointError: a file of a local folder is no JSON, or no mapping.
    """
    if network.path and network.path.is_dir():
        for file in (file for name in _CONFIGS for place in (name, f"*/{name}") for file in network.path.glob(place)):
            read_json(file, what="network's settings", error=CheckpointError, kind=dict)


def bound_length(tokenizer: Any, text_encoder: Any) -> None:
    """Lets a tokenizer cut texts where its text encoder ends; those that do not say where have no end at all."""
    if tokenizer is not None and text_encoder is not None:
        config = getattr(text_encoder.config, "text_config", None) or text_encoder.config
        tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)


def _blame_damage(role: str, network: Network) -> None:
    if not network.path or network.sha256:  # sums are known
        try:
            network.check()
        except CheckpointError as damage:
            raise CheckpointError(f"{role}: {damage}") from None


def text_projection(base: Network) -> Path | None:
    """The `TEXT_PROJECTION` in a base's folder, if there is one."""
    folder = base.find() if base.path else None
    file = folder / "text_encoder" / TEXT_PROJECTION if folder else None
    return file if file and file.is_file() else None


def load_base(preset: Preset, text_dim: int, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a preset; the width of its text says which family it has to be of.

    Raises:
        InputError: an unknown scheduler.
        CheckpointError: a single file of another kind or family, or weights that are missing.
    """
    base = preset.base
    if base.single_file:
        family = base.config or load_preset("sdxl" if text_dim > 1024 else "sd15").base
        pipe = load_single_file(base.fetch(), family.fetch_config(), text_dim, dtype)
    else:
        pipe = _load_folder(base, dtype)
    if preset.scheduler:
        pipe.scheduler = _scheduler(preset, pipe.scheduler)
    for number in ("", "_2"):
        bound_length(getattr(pipe, f"tokenizer{number}", None), getattr(pipe, f"text_encoder{number}", None))
    return pipe


def _scheduler(preset: Preset, before: Any) -> Any:
    """The scheduler that a preset names, with what it shares with the base's own.

    Raises:
        InputError: diffusers has none of that name for these models, or it has no such options.
    """
    import diffusers

    sampler = SAMPLERS.get(preset.scheduler, Sampler(preset.scheduler))
    what = f"scheduler={preset.scheduler!r}"
    kind: Any = getattr(diffusers, sampler.scheduler, None) if sampler.scheduler.endswith("Scheduler") else None
    remedy = f"give one of {', '.join(SAMPLERS)}, or the name of a scheduler class of diffusers such as DDIMScheduler"
    if kind is None:
        raise InputError(f"{what} is not known; {remedy}")
    options = {**sampler.options, **preset.scheduler_options}
    try:
        known = [name for name in signature(kind).parameters if name != "kwargs"]
        scheduler = kind.from_config(before.config, **options)
    except Exception as error:  # each has checks of its own
        used = f"{what} with {options or 'no options'}"
        raise InputError(f"{used} cannot be used ({first_line(error)}); {remedy}") from error
    if unknown := sorted(options.keys() - set(known)):
        raise InputError(f"scheduler_options: {kind.__name__} has no {', '.join(unknown)}; it has {', '.join(known)}")
    # what these pipelines ask of a scheduler, and those for other kinds of models lack
    if not all(hasattr(scheduler, name) for name in ("init_noise_sigma", "scale_model_input", "set_timesteps", "step")):
        raise InputError(f"{what} is made for other models than Stable Diffusion; {remedy}")
    return scheduler


def _load_folder(base: Network, dtype: torch.dtype) -> Any:
    """A pipeline in diffusers' layout. Its networks are loaded singly, which says what they lack."""
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline

    source, options = base.pretrained
    folder = Path(source) if base.path else Path(DiffusionPipeline.download(source, **options))
    networks: dict[str, Any] = {}
    config = DiffusionPipeline.load_config(folder)
    components = component_classes(config, f"base: {base}")
    for name, kind in components.items():
        if issubclass(kind, nn.Module):
            variant = base.variant if base.variant and any((folder / name).glob(f"*.{base.variant}.*")) else None
            safe = any((folder / name).glob("*.safetensors"))  # else libraries log an error before they read pickles
            networks[name], report = kind.from_pretrained(
                folder / name, dtype=dtype, variant=variant, output_loading_info=True, use_safetensors=safe
            )
            check_network(networks[name], report["missing_keys"], f"base: {base}/{name}")
    # One that came without a safety checker would be complained of in every pipeline that is made of it.
    if "requires_safety_checker" in config and "safety_checker" not in components:
        networks["requires_safety_checker"] = False
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **networks)
    takes_pictures = "image" in signature(type(pipe).__call__).parameters  # one saved for inpainting does
    return AutoPipelineForText2Image.from_pipe(pipe) if takes_pictures else pipe


def load_lora(pipe: Any, lora: Network, name: str) -> None:
    """Adds a LoRA to a pipeline under that name.

    Raises:
        CheckpointError: it has no layers of this base, or some of other sizes.
    """
    source: Any
    options: dict[str, Any]
    if lora.path or lora.files:
        file = lora.fetch()
        source, options = (file.parent, {"weight_name": file.name}) if file.is_file() else (file, {})
    else:
        source, options = lora.repo, {"revision": lora.revision}
    try:
        pipe.load_lora_weights(str(source), adapter_name=name, **options)
    except RuntimeError as error:
        found = _MISMATCH.search(str(error))
        if found is None:
            raise
        layer = found[1].replace(f".{name}.", ".")
        raise CheckpointError(
            f"{lora}: its layer {layer} has the shape ({found[2]}), and this base's has ({found[3]}); choose a LoRA"
            " that was made for this family of base models"
        ) from error
    if name not in {found for names in pipe.get_list_adapters().values() for found in names}:
        raise CheckpointError(f"{lora}: has no layers of this base; choose a LoRA made for its family")
    networks = [network for network in pipe.components.values() if isinstance(network, nn.Module)]
    layers = ((layer, x) for network in networks for layer, x in network.named_parameters() if f".{name}." in layer)
    check_finite(layers, str(lora))


def load_controlnet(network: Network, dtype: torch.dtype) -> Any:
    """The ControlNet of a folder, repository or single file.

    Raises:
        CheckpointError: weights are missing in it.
    """
    from diffusers import ControlNetModel

    if network.single_file:
        model = ControlNetModel.from_single_file(str(network.fetch()), dtype=dtype)
        check_network(model, (), f"controlnet: {network}")
        return model.eval()
    source, options = network.pretrained
    model, report = ControlNetModel.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    check_network(model, report["missing_keys"], f"controlnet: {network}")
    return model.eval()


def load_image_encoder(network: Network, dtype: torch.dtype, clip_dim: int | None = None) -> tuple[Any, Any]:
    """The CLIP vision model, frozen, and its image processor.

    Args:
        network: where it is.
        dtype: of its weights.
        clip_dim: width of its hidden states that the adapter reads, where there is one.

    Raises:
        CheckpointError: weights are missing in it, or it is of another width.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    source, options = network.pretrained
    model, report = CLIPVisionModelWithProjection.from_pretrained(
        source, dtype=dtype, output_loading_info=True, **options
    )
    check_network(model, report["missing_keys"], f"image_encoder: {network}")
    check_width("image_encoder", network, "features", model.config.hidden_size, clip_dim)
    processor = CLIPImageProcessorPil.from_pretrained(source, **options)
    made, side = dict(processor.crop_size), model.config.image_size
    if (made.get("height"), made.get("width")) != (side, side):
        raise CheckpointError(
            f"image_encoder: {network}: its preprocessor_config.json makes pictures of {made.get('height')}x"
            f"{made.get('width')} pixels, and the network reads {side}x{side}; get its files again"
        )
    return model.eval().requires_grad_(False), processor


def check_width(role: str, network: Network, what: str, found: int, wanted: int | None) -> None:
    """Makes sure that a network gives as many numbers as the adapter reads.

    Raises:
        CheckpointError: it does not.
    """
    if wanted is not None and found != wanted:
        raise CheckpointError(
            f"{role}: {network} makes {what} of {found} numbers, and the adapter takes {wanted}; use a network of"
            f" {wanted}, or an adapter that was trained with this one"
        )


def load_detector(preset: Preset, device: torch.device | str = "cpu") -> Detector:
    """The detector of a preset, on a device; its parser is loaded where that detector reads labels.

    Raises:
        CheckpointError: weights are missing, broken, or of another kind.
    """
    return _detector(preset, device, onnx_providers(device))


def load_analyzer(preset: Preset, device: torch.device | str = "cpu") -> FaceAnalyzer:
    """The face networks of a preset, on a device.

    Raises:
        CheckpointError: weights are missing, broken, or of another kind.
    """
    providers = onnx_providers(device)
    parser = _parser(preset, device, providers)
    detector = _detector(preset, device, providers, parser)
    with loading("recogniser", preset.recogniser):
        recogniser = OnnxRecogniser(preset.recogniser.fetch(), providers)
    return FaceAnalyzer(detector, recogniser, parser, DrawingGuard(parser) if preset.drawings_only else None)


def _parser(preset: Preset, device: torch.device | str, providers: tuple[Any, ...]) -> FaceParser:
    network = preset.parser
    with loading("parser", network):
        if network.kind == "bisenet":
            return FaceParser.bisenet(network.fetch(), device)
        if network.kind == "onnx":
            return FaceParser.onnx(network.fetch(), providers=providers, **network.options)
        source, options = network.pretrained
        return FaceParser.segformer(source, device=device, **options)


def _detector(
    preset: Preset, device: torch.device | str, providers: tuple[Any, ...], parser: FaceParser | None = None
) -> Detector:
    network = preset.detector
    if network.kind == "labels":
        parser = parser or _parser(preset, device, providers)
        with loading("detector", network):
            return LabelDetector(parser, **network.options)
    with loading("detector", network):
        return OnnxDetector(network.fetch(), providers=providers)


def network_name(network: Network) -> str:
    """Name and hash of a network's weights, the same on every machine; empty where they cannot be told."""
    found = network.find()
    if found is None:
        return ""
    if len(network.files) > 1:  # the hub's cache may hold other weights of that repository, too
        return fingerprint(found / network.files[-1], name=network.repo.rpartition("/")[2])
    return fingerprint(found)
