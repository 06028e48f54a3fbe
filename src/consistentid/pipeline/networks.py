"""`PresetNetworks`: the networks of a preset, each loaded when it is first used, and how they take turns computing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.identify import IdentityEncoder
from consistentid.errors import InputError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.onnx import onnx_providers
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.devices import (
    fast_bfloat16,
    moved,
    ordinary_tensors,
    resolve_device,
    resolve_dtype,
    torch_threads,
)
from consistentid.pipeline.request import Request
from consistentid.pipeline.sampling import Sampled, Sampler
from consistentid.presets.clip_pair import ClipEncoder, clip_of_preset
from consistentid.presets.loading import (
    check_width,
    load_analyzer,
    load_base,
    load_controlnet,
    load_image_encoder,
    load_lora,
    loading,
    network_name,
)
from consistentid.presets.preset import Preset


class PresetNetworks:
    """The networks of a preset put together; arguments and errors as `ConsistentIDPipeline` has them.

    Each is loaded when first used, and once. The face networks are on the device only while they look at a picture.
    """

    def __init__(
        self,
        preset: Preset,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        low_memory: bool = False,
        fold: bool = True,
    ) -> None:
        self.preset = preset
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype or preset.dtype, self.device)
        self._auto_dtype = (dtype or preset.dtype) == "auto"
        self.low_memory, self.fold = low_memory, fold
        self._lock = threading.RLock()

    @cached_property
    @ordinary_tensors()
    def adapter(self) -> ConsistentID:
        """The ConsistentID weights."""
        network = self.preset.adapter
        with loading("adapter", network):
            if network.path or network.files:
                return ConsistentID.from_pretrained(network.fetch())
            return ConsistentID.from_pretrained(network.repo, revision=network.revision)

    @cached_property
    @ordinary_tensors()
    def pipe(self) -> Any:
        """The diffusers pipeline with the adapter attached.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        with loading("base", self.preset.base):
            pipe = load_base(self.preset, self.adapter.spec.text_dim, self.dtype)
            pipe.to("cpu" if self.low_memory else self.device)
        for number, lora in enumerate(self.preset.loras, 1):
            with loading(f"lora {number}", lora):
                load_lora(pipe, lora, f"lora{number}")
        if self.preset.loras:
            names = [f"lora{number}" for number, _ in enumerate(self.preset.loras, 1)]
            pipe.set_adapters(names, [lora.scale for lora in self.preset.loras])
        self.adapter.to(dtype=self.dtype).attach(pipe, fold=self.fold)
        return self._ready(pipe)

    @cached_property
    @ordinary_tensors()
    def controlnet(self) -> Any:
        """The ControlNet.

        Raises:
            InputError: the preset has none.
            CheckpointError: its weights are missing, broken, or of another kind.
        """
        network = self.preset.controlnet
        if network is None:
            raise InputError(
                "control is a picture for a ControlNet, and none is chosen; name one: --control-model on the command"
                " line, from_preset(..., controlnet=...) in Python, controlnet in a preset's YAML file"
            )
        with loading("controlnet", network):
            controlnet = load_controlnet(network, self.dtype)
            return controlnet.to("cpu" if self.low_memory else self.device)

    @cached_property
    def sampler(self) -> Sampler:
        """What draws with `pipe`."""
        return Sampler(self.pipe, self.adapter, lambda: self.controlnet, self._ready)

    def draw(self, request: Request) -> Sampled:
        """The pictures of a request, with the preset's settings for what it leaves open; see `Sampler.sample`."""
        return self.sampler.sample(request, self.preset.settings)

    def _ready(self, pipe: Any) -> Any:
        """A pipeline as this object wants it to sample."""
        pipe.set_progress_bar_config(disable=True)
        if self.low_memory:
            pipe.vae.enable_slicing()
            pipe.vae.enable_tiling()
            if self.device.type != "cpu":
                pipe.enable_model_cpu_offload(device=self.device)
        return pipe

    @cached_property
    @ordinary_tensors()
    def analyzer(self) -> FaceAnalyzer:
        """The face networks.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return load_analyzer(self.preset, "cpu" if self.low_memory else self.device)

    def checked_analyzer(self) -> FaceAnalyzer:
        """The face networks, whose embeddings the adapter can read."""
        recogniser: Any = self.analyzer.recogniser
        with loading("recogniser", self.preset.recogniser):
            check_width("recogniser", self.preset.recogniser, "embeddings", recogniser.width, self.adapter.spec.id_dim)
        return self.analyzer

    @cached_property
    @ordinary_tensors()
    def encoder(self) -> IdentityEncoder:
        """Face networks and image encoder, which make an `Identity` of photos.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        preset = self.preset
        analyzer = self.checked_analyzer()
        with loading("image_encoder", preset.image_encoder):
            # Nearly all of the time that a person takes on a CPU; its features are kept in half precision anyway.
            faster = self._auto_dtype and fast_bfloat16(self.device)
            dtype = torch.bfloat16 if faster else self.dtype
            image_encoder, processor = load_image_encoder(preset.image_encoder, dtype, self.adapter.spec.clip_dim)
        used = {"recogniser": preset.recogniser, "image_encoder": preset.image_encoder, "parser": preset.parser}
        return IdentityEncoder(
            analyzer,
            image_encoder,
            processor,
            part_layout=self.adapter.spec.part_layout,
            canvas_size=self.adapter.spec.canvas_size,
            provenance={role: network_name(network) for role, network in used.items()},
            same_person=preset.same_person,
        )

    @cached_property
    @ordinary_tensors()
    def clip_pair(self) -> ClipEncoder | None:
        """The image encoder with the text encoder that goes with it; None where the preset has none.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        encoder = self.encoder
        return clip_of_preset(
            self.preset, encoder.image_encoder, encoder.processor, self.pipe.tokenizer, device=self.device
        )

    @cached_property
    def judge(self) -> OnnxRecogniser:
        """The recogniser that scores and never conditions.

        Raises:
            InputError: the preset has none.
            CheckpointError: its weights are missing or broken.
        """
        network = self.preset.judge
        if network is None:
            raise InputError(
                f"the preset {self.preset.name!r} has no judge; name a recogniser as judge in its YAML file"
            )
        with loading("judge", network):
            return OnnxRecogniser(network.fetch(), onnx_providers("cpu" if self.low_memory else self.device))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """One call at a time, and on a CPU with as many threads as the preset asks for."""
        threads = self.preset.threads if self.device.type == "cpu" else 0
        with self._lock, torch_threads(threads or torch.get_num_threads()):
            yield

    @contextmanager
    def faces_at_work(self) -> Iterator[None]:
        """The face networks on the device, for as long as they are used."""
        parser: Any = self.analyzer.parser
        with moved(self.device, parser.network):
            yield
