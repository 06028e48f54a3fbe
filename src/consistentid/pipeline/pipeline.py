"""`ConsistentIDPipeline`: the networks of a preset put together; photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.identify import IdentityEncoder
from consistentid.adapter.identity import Identity
from consistentid.errors import ArgumentError, InputError, first_line
from consistentid.faces.analyzer import FaceAnalyzer, embed_largest
from consistentid.faces.caption import Captioner
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.faces.sight import Sight, look
from consistentid.files.devices import fast_bfloat16, moved, resolve_device, resolve_dtype
from consistentid.files.images import Photo, pixel_digest, read_photo
from consistentid.files.output import versions
from consistentid.pipeline.portraits import Portraits
from consistentid.pipeline.request import Request, Step
from consistentid.pipeline.sampling import Sampler, report
from consistentid.presets.loading import (
    load_analyzer,
    load_base,
    load_controlnet,
    load_image_encoder,
    load_lora,
    loading,
    network_name,
    onnx_file,
)
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset
from consistentid.presets.read import load_preset


class ConsistentIDPipeline:
    """Portraits of a person from photos and a prompt. Each network is loaded when first used, and once.

    The face networks are on the device only while they look at a picture. Calls from several threads wait for one
    another.

    Args:
        preset: which networks, and the settings they were made for.
        device: where to compute, e.g. "cpu", "cuda", "cuda:1", "mps"; the best there is by default.
        dtype: "auto", "float32", "float16", "bfloat16" or a torch dtype; the preset's by default.
        low_memory: keep on a GPU only the network that computes, decode pictures singly and in tiles, and let go of
            the image encoder after each `identify`. The pictures stay the same, up to rounding and the tiles' seams.
        fold: add the adapter's LoRA to the base's weights, which is faster; see `ConsistentID.attach`.

    Raises:
        InputError: a device that is not there, or an unknown dtype.
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

    @classmethod
    def from_preset(
        cls,
        name_or_path: str | PathLike[str],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        low_memory: bool = False,
        fold: bool = True,
        **overrides: Any,
    ) -> ConsistentIDPipeline:
        """The preset of that name, folder or YAML file; `overrides` replace networks or settings in it.

        Raises:
            InputError: no such preset, override, device or dtype; the message lists what there is.
        """
        return cls(load_preset(name_or_path).override(**overrides), device, dtype, low_memory=low_memory, fold=fold)

    @cached_property
    def adapter(self) -> ConsistentID:
        """The ConsistentID weights."""
        network = self.preset.adapter
        with loading("adapter", network):
            if network.path or network.files:
                return ConsistentID.from_pretrained(network.fetch())
            return ConsistentID.from_pretrained(network.repo, revision=network.revision)

    @cached_property
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
    def analyzer(self) -> FaceAnalyzer:
        """The face networks.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return load_analyzer(self.preset)

    @cached_property
    def encoder(self) -> IdentityEncoder:
        """Face networks and image encoder, which make an `Identity` of photos.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        preset = self.preset
        analyzer = self.analyzer
        with loading("image_encoder", preset.image_encoder):
            # Nearly all of the time that a person takes on a CPU; its features are kept in half precision anyway.
            faster = self._auto_dtype and fast_bfloat16(self.device)
            dtype = torch.bfloat16 if faster else self.dtype
            image_encoder, processor = load_image_encoder(preset.image_encoder, dtype)
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
            return OnnxRecogniser(onnx_file(network))

    def identify(
        self,
        *photos: Photo,
        face_index: int | Sequence[int | None] | None = None,
        captioner: Captioner | None = None,
        skip_bad: bool = False,
    ) -> Identity:
        """The person on one or more photos: `look`, then `encode`.

        Args:
            photos: paths, Pillow images, arrays, bytes or streams (see `Photo`), all of one person.
            face_index: which face where a photo shows several, for all or for each; 0 is the largest.
            captioner: a vision-language model that puts the face into words, which are then the facial sentence.
            skip_bad: leave out photos without a usable face of the person, with a warning that names them.

        Raises:
            InputError: no photos, or one that cannot be read.
            NoFaceError, SeveralFacesError: a photo without a face, or with several and none chosen.
            FaceError: a face that cannot be used, or a photo of another person than the others.
            PhotographError: a photograph where the preset knows drawings only.
        """
        return self.encode(self.look(*photos, face_index=face_index, skip_bad=skip_bad), captioner)

    def look(
        self, *photos: Photo, face_index: int | Sequence[int | None] | None = None, skip_bad: bool = False
    ) -> list[Sight]:
        """What is seen of the person on each photo, by the face networks alone; arguments and errors as `identify`."""
        names = [str(x) if isinstance(x, str | PathLike) else f"picture {n}" for n, x in enumerate(photos, 1)]
        images = [read_photo(x, name) for x, name in zip(photos, names, strict=True)]
        with self._lock, self._faces():
            return look(
                self.analyzer,
                images,
                names=names,
                face_index=face_index,
                same_person=self.preset.same_person,
                skip_bad=skip_bad,
            )

    def encode(self, sights: Sequence[Sight], captioner: Captioner | None = None) -> Identity:
        """The person of whom these are sights: only now the image encoder is loaded.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        with self._lock, moved(self.device, self.encoder.image_encoder):
            identity = self.encoder.combine(sights, captioner)
            if self.low_memory:
                del self.encoder
        return identity

    @contextmanager
    def _faces(self) -> Iterator[None]:
        """The face networks on the device, for as long as they are used."""
        parser: Any = self.analyzer.parser
        with moved(self.device, parser.network):
            yield

    def __call__(self, identity: Identity, prompt: str | Sequence[str], **arguments: Any) -> Portraits:
        """Portraits of the person: `generate` of a `Request` of these arguments.

        Args:
            identity: from `identify` or `Identity.load`.
            prompt: what the pictures shall show: one text or several.
            arguments: everything else that `Request` has, such as ``num_images_per_prompt``, ``seed``, ``image``; what
                is left out comes from the preset's settings. With `image` that picture is drawn anew (img2img); with
                `mask`, too, the person is put into it (inpainting).

        Raises:
            InputError: an argument out of its range; PromptTooLongError: a prompt of too many words.
            IncompatibleIdentityError: the identity was made by other networks.
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return self.generate(Request(identity, prompt, **arguments))

    def generate(self, request: Request) -> Portraits:
        """The pictures of a request with their likeness, the best of them where it asks for the best.

        Should the likeness not be measurable, all pictures are kept without it, and a `UserWarning` says why.

        Raises:
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError: see `__call__`.
            CancelledError: `request.cancelled` said so.
        """
        with self._lock:
            who = self._person(request)
            _ = self.analyzer  # what cannot be loaded is told before the long work, not after it
            made, windows = self._sample(request)
            report(request, Step("scoring", len(made), len(made)))
            try:
                scores = self.score(windows, who)
            except Exception as error:  # whatever it is, finished pictures are not lost to it
                warnings.warn(
                    f"the likeness could not be measured ({first_line(error)}); all {len(made)} pictures are kept"
                    " without it",
                    stacklevel=2,
                )
                return made
        made = replace(made, scores=scores, scored=True)
        if not request.best_of:
            return made
        order: list[int] = []
        for start in range(0, len(made), request.made):
            group = range(start, start + request.made)
            best = sorted(group, key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i], reverse=True)
            order += best[: request.num_images_per_prompt]
        return made.chosen(order)

    def sample(self, request: Request) -> Portraits:
        """All pictures of a request, their likeness not measured.

        Raises:
            InputError, IncompatibleIdentityError, CheckpointError, PromptTooLongError, CancelledError: see `generate`.
        """
        with self._lock:
            if not request.base_alone:
                self._person(request)
            return self._sample(request)[0]

    def score(self, images: Sequence[Image.Image], identity: Identity) -> list[float]:
        """Likeness of each picture's largest face to the identity: cosine, -1 to 1; NaN where no face is found."""
        target = identity.embedding.numpy()
        scores = []
        with self._lock, self._faces():
            for image in images:
                found = embed_largest(image, self.analyzer.detector, self.analyzer.recogniser)
                scores.append(math.nan if found is None else float(found @ target))
        return scores

    def _person(self, request: Request) -> Identity:
        """The person of a request, whose networks are compared before the base is loaded, which may be slow."""
        if request.identity is None:
            raise ArgumentError("{identity} is missing; make one with identify(photo), or Identity.load(file)")
        request.identity.check_networks(self.adapter.spec.networks)
        return request.identity

    def _sample(self, request: Request) -> tuple[Portraits, list[Image.Image]]:
        """The pictures, and of each what was sampled, which with a mask is a part of it."""
        record = self._record(request)
        out = self.sampler.sample(request, self.preset.settings)
        prompts, seeds = [row.prompt for row in out.rows], [row.seed for row in out.rows]
        unknown = [math.nan] * len(seeds)
        return Portraits(out.images, unknown, seeds, out.withheld, prompts, record, scored=False), out.windows

    def _record(self, request: Request) -> dict[str, Any]:
        """How the pictures of a request are made, without anything that is of this machine alone."""
        settings, preset, who = request.settings(self.preset.settings), self.preset, request.identity
        sentence = request.face_text
        if sentence is None and not request.parts and who:
            sentence = who.face_text or None
        used: dict[str, Network | None] = {"base": preset.base, "adapter": preset.adapter}
        if request.control:
            used["controlnet"] = preset.controlnet
        given = zip(("image", "mask", "control"), request.pictures, strict=True)
        return {
            "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
            **settings.record(),
            "face_text": sentence,
            "parts": dict(request.parts or {}),
            "base_alone": request.base_alone,
            "scheduler": preset.scheduler,
            "scheduler_options": dict(preset.scheduler_options),
            **({"strength": settings.strength} if request.image else {}),
            **({"control_scale": settings.control_scale} if request.control else {}),
            "given": {name: pixel_digest(picture) for name, picture in given if picture},
            "preset": preset.name,
            **{role: network_name(network) or network.repo for role, network in used.items() if network},
            "loras": [{"name": network_name(lora) or lora.repo, "scale": lora.scale} for lora in preset.loras],
            "networks": dict(who.provenance) if who else {},
            "versions": versions(),
            "ai_generated": True,
        }
