"""The networks of a preset, loaded: whatever is wrong with their files becomes one error that names the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consistentid.errors import CheckpointError, ConsistentIDError, InputError, first_line
from consistentid.faces.analyzer import Detector, FaceAnalyzer
from consistentid.faces.detection import OnnxDetector, insightface_networks
from consistentid.faces.from_labels import LabelDetector
from consistentid.faces.guard import DrawingGuard
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.parsing import FaceParser
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.weights import check_complete, fingerprint
from consistentid.presets.network import UNREACHABLE, Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset
from consistentid.presets.settings import SAMPLERS, Sampler
from consistentid.presets.single_file import load_single_file

TEXT_PROJECTION = "text_projection.safetensors"
"""File beside a base's text encoder with what takes its text into the space of the preset's image encoder."""


@contextmanager
def loading(role: str, network: Network) -> Iterator[None]:
    """Errors of other libraries about a network's files as one that names the network."""
    try:
        yield
    except ConsistentIDError:
        raise
    except Exception as error:  # a broken file makes loaders raise nearly anything
        remedy = "get its files again or correct the preset" if network.path else UNREACHABLE
        raise CheckpointError(f"{role}: {network} cannot be loaded ({first_line(error)}); {remedy}") from error


def load_base(preset: Preset, text_dim: int, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a preset; the width of its text says which family it has to be of.

    Raises:
        InputError: an unknown scheduler.
        CheckpointError: a single file of another kind or family, or weights that are missing.
    """
    import diffusers

    base = preset.base
    if base.single_file:
        family = base.config or load_preset("sdxl" if text_dim > 1024 else "sd15").base
        pipe = load_single_file(base.fetch(), family.fetch_config(), text_dim, dtype)
    else:
        pipe = _load_folder(base, dtype)
    if preset.scheduler:
        sampler = SAMPLERS.get(preset.scheduler, Sampler(preset.scheduler))
        known = getattr(diffusers, sampler.scheduler, None)
        if known is None:
            raise InputError(
                f"scheduler={preset.scheduler!r} is not known; give one of {', '.join(SAMPLERS)}, or the name of a"
                " scheduler class of diffusers"
            )
        pipe.scheduler = known.from_config(pipe.scheduler.config, **{**sampler.options, **preset.scheduler_options})
    return pipe


def _load_folder(base: Network, dtype: torch.dtype) -> Any:
    """A pipeline in diffusers' layout. Its networks are loaded singly, which says what they lack."""
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline, pipelines

    source, options = base.pretrained
    folder = Path(source) if base.path else Path(DiffusionPipeline.download(source, **options))
    networks = {}
    for name, component in DiffusionPipeline.load_config(folder).items():
        if not isinstance(component, list) or component[0] is None:
            continue
        library, class_name = component
        kind = getattr(getattr(pipelines, library, None) or import_module(library), class_name)
        if issubclass(kind, nn.Module):
            variant = base.variant if base.variant and any((folder / name).glob(f"*.{base.variant}.*")) else None
            safe = any((folder / name).glob("*.safetensors"))  # else libraries log an error before they read pickles
            networks[name], report = kind.from_pretrained(
                folder / name, dtype=dtype, variant=variant, output_loading_info=True, use_safetensors=safe
            )
            check_complete(report["missing_keys"], f"base: {base}/{name}")
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **networks)
    takes_pictures = "image" in signature(type(pipe).__call__).parameters  # one saved for inpainting does
    return AutoPipelineForText2Image.from_pipe(pipe) if takes_pictures else pipe


def load_lora(pipe: Any, lora: Network, name: str) -> None:
    """Adds a LoRA to a pipeline under that name.

    Raises:
        CheckpointError: it has no layers of this base.
    """
    if lora.path or lora.files:
        file = lora.fetch()
        source, options = (file.parent, {"weight_name": file.name}) if file.is_file() else (file, {})
        pipe.load_lora_weights(str(source), adapter_name=name, **options)
    else:
        pipe.load_lora_weights(lora.repo, revision=lora.revision, adapter_name=name)
    if name not in {found for names in pipe.get_list_adapters().values() for found in names}:
        raise CheckpointError(f"{lora}: has no layers of this base; choose a LoRA made for its family")


def load_controlnet(network: Network, dtype: torch.dtype) -> Any:
    """The ControlNet of a folder, repository or single file.

    Raises:
        CheckpointError: weights are missing in it.
    """
    from diffusers import ControlNetModel

    if network.single_file:
        return ControlNetModel.from_single_file(str(network.fetch()), dtype=dtype).eval()
    source, options = network.pretrained
    model, report = ControlNetModel.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    check_complete(report["missing_keys"], f"controlnet: {network}")
    return model.eval()


def load_image_encoder(network: Network, dtype: torch.dtype) -> tuple[Any, Any]:
    """The CLIP vision model, frozen, and its image processor.

    Raises:
        CheckpointError: weights are missing in it.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    source, options = network.pretrained
    model, report = CLIPVisionModelWithProjection.from_pretrained(
        source, dtype=dtype, output_loading_info=True, **options
    )
    check_complete(report["missing_keys"], f"image_encoder: {network}")
    return model.eval().requires_grad_(False), CLIPImageProcessorPil.from_pretrained(source, **options)


def load_analyzer(preset: Preset, device: torch.device | str = "cpu") -> FaceAnalyzer:
    """The face networks of a preset, on a device.

    Raises:
        CheckpointError: weights are missing, broken, or of another kind.
    """
    providers = onnx_providers(device)
    with loading("parser", preset.parser):
        if preset.parser.kind == "bisenet":
            parser = FaceParser.bisenet(preset.parser.fetch(), device)
        elif preset.parser.kind == "onnx":
            parser = FaceParser.onnx(preset.parser.fetch(), providers=providers, **preset.parser.options)
        else:
            source, options = preset.parser.pretrained
            parser = FaceParser.segformer(source, device=device, **options)
    with loading("detector", preset.detector):
        detector: Detector = (
            LabelDetector(parser)
            if preset.detector.kind == "labels"
            else OnnxDetector(onnx_file(preset.detector), providers=providers)
        )
    with loading("recogniser", preset.recogniser):
        recogniser = OnnxRecogniser(onnx_file(preset.recogniser), providers)
    return FaceAnalyzer(detector, recogniser, parser, DrawingGuard() if preset.drawings_only else None)


def onnx_file(network: Network) -> Path:
    """An ONNX file; one of kind "insightface" is of a model pack, which that library fetches if it is not there.

    Raises:
        CheckpointError: it is missing and cannot be fetched, or the pack's folder is there without it.
    """
    if network.kind == "insightface" and network.path and not network.path.exists():
        pack = network.path.parent  # ROOT/models/PACK/FILE.onnx
        if pack.is_dir():  # the library fetches whole folders only
            raise CheckpointError(
                f"{pack}: is incomplete, it lacks {network.path.name}; delete that folder, and it is fetched again"
            )
        insightface_networks(pack.name, root=str(pack.parents[1]))
    return network.fetch()


def network_name(network: Network) -> str:
    """Name and hash of a network's weights, the same on every machine; empty where they cannot be told."""
    found = network.find()
    if found is None:
        return ""
    if len(network.files) > 1:  # the hub's cache may hold other weights of that repository, too
        return fingerprint(found / network.files[-1], name=network.repo.rpartition("/")[2])
    return fingerprint(found)
