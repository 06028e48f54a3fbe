"""`ConsistentIDPipeline`: the networks of a preset put together; photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from PIL import Image

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.identify import IdentityEncoder
from consistentid.adapter.identity import Identity
from consistentid.adapter.merge import Callback
from consistentid.errors import InputError
from consistentid.faces.analyzer import FaceAnalyzer, embed_largest
from consistentid.faces.caption import Captioner
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.files.devices import moved, resolve_device, resolve_dtype
from consistentid.pipeline.given import Given, Photo, call_arguments, check_base, inpaints, keeping, read_photo
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
from consistentid.presets.preset import Preset, Settings, load_preset

_SEEDS = 2**32  # torch's generator on the CPU uses no more bits
_REMEMBERED = 32  # identities and texts whose inputs are kept; each takes less than a megabyte


@dataclass(frozen=True)
class Portraits:
    """Pictures of one call.

    Attributes:
        images: RGB pictures.
        scores: likeness of each to the identity, cosine of the recogniser's embeddings, -1 to 1; NaN = no face found.
        seeds: of each; a picture can be made again alone with its seed.
        withheld: whether the base's safety checker blacked it out.
    """

    images: list[Image.Image]
    scores: list[float]
    seeds: list[int]
    withheld: list[bool]


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
        self.low_memory, self.fold = low_memory, fold
        self._lock = threading.RLock()
        self._inputs: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()
        self._made_by: list[tuple[torch.nn.Parameter, int]] = []

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
            image_encoder, processor = load_image_encoder(preset.image_encoder, self.dtype)
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

    def identify(self, *photos: Photo, face_index: int | None = None, captioner: Captioner | None = None) -> Identity:
        """The person on one or more photos.

        Args:
            photos: paths or Pillow images, all of one person.
            face_index: which face where a photo shows several; 0 is the largest.
            captioner: a vision-language model that puts the face into words, which are then the facial sentence.

        Raises:
            InputError: no photos, or one that cannot be read.
            NoFaceError, SeveralFacesError: a photo without a face, or with several and none chosen.
            FaceError: a photo of another person than the others.
            PhotographError: a photograph where the preset knows drawings only.
        """
        names = [f"picture {n}" if isinstance(x, Image.Image) else str(x) for n, x in enumerate(photos, 1)]
        images = [read_photo(x, name) for x, name in zip(photos, names, strict=True)]
        with self._lock, self._faces(self.encoder.image_encoder):
            identity = self.encoder.encode(*images, names=names, face_index=face_index, captioner=captioner)
            if self.low_memory:
                del self.encoder
        return identity

    @contextmanager
    def _faces(self, *more: torch.nn.Module) -> Iterator[None]:
        """The face networks on the device, for as long as they are used."""
        parser: Any = self.analyzer.parser
        with moved(self.device, parser.network, *more):
            yield

    def __call__(
        self,
        identity: Identity,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        best_of: int | None = None,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scale: float | None = None,
        merge_at: float | None = None,
        height: int | None = None,
        width: int | None = None,
        image: Photo | None = None,
        mask: Photo | None = None,
        strength: float | None = None,
        control: Photo | None = None,
        control_scale: float | None = None,
        face_text: str | None = None,
        parts: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Portraits:
        """Portraits of the person; what is left out comes from the preset's settings, whose meaning is in `Settings`.

        With `image` that picture is drawn anew (img2img); with `mask`, too, the person is put into it (inpainting).

        Args:
            identity: from `identify` or `Identity.load`.
            prompt: what the pictures shall show.
            negative_prompt: what they shall not show.
            num_images_per_prompt: how many pictures.
            best_of: make so many and keep the `num_images_per_prompt` of best likeness.
            seed: of the first picture, 0 to 2**32 - 1; the others count up from it. Random by default.
            num_inference_steps: sampling steps.
            guidance_scale: classifier-free guidance; 1 or less = off.
            scale: strength of the identity tokens.
            merge_at: fraction of the steps after which the fused facial text takes over.
            height, width: pixels; with `image` or `control` the shape is that picture's, and these say how many pixels.
            image: path or picture to start from.
            mask: of its size, white where it is drawn anew: everything else stays as it is, to the last bit.
            strength: how far it is drawn anew, 0 to 1.
            control: path or picture for the ControlNet: a pose, depths or edges; of the shape of `image`.
            control_scale: strength of the ControlNet.
            face_text: the facial sentence; by default the identity's own or a fixed one.
            parts: words for single parts, e.g. ``{"eyes": "green eyes"}``.
            progress: called with (steps done, steps in all) after each step.

        Raises:
            InputError: an argument out of its range; PromptTooLongError: a prompt of too many words.
            IncompatibleIdentityError: the identity was made by other networks.
            CheckpointError: weights are missing, broken, or of another kind.
        """
        settings = self.preset.settings.but(
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            scale=scale,
            merge_at=merge_at,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            strength=strength,
            control_scale=control_scale,
        )
        given = Given.read(image, mask, control)
        if given.image and int(settings.steps * settings.strength) < 1:
            raise InputError(
                f"strength={settings.strength} of {settings.steps} steps is no step at all; raise one of them"
            )
        wanted, made = num_images_per_prompt, best_of or num_images_per_prompt
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError(f"prompt={prompt!r} is empty; describe the picture, as in 'a woman in a red hat'")
        if wanted < 1 or made < wanted:
            raise InputError(
                f"num_images_per_prompt={wanted} and best_of={best_of} do not fit: make at least one picture, and"
                " best_of no less than num_images_per_prompt"
            )
        if seed is not None and not 0 <= seed < _SEEDS:
            raise InputError(f"seed={seed} is not allowed; give an integer from 0 to {_SEEDS - 1}")
        first = secrets.randbelow(_SEEDS) if seed is None else seed
        seeds = [(first + number) % _SEEDS for number in range(made)]
        with self._lock:
            windows, images, withheld = self._sample(
                identity, prompt, settings, given, seeds, face_text, parts, progress
            )
            scores = self.score(windows, identity)
        order = list(range(made))
        if best_of:
            order.sort(key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i], reverse=True)
            order = order[:wanted]
        return Portraits(
            images=[images[i] for i in order],
            scores=[scores[i] for i in order],
            seeds=[seeds[i] for i in order],
            withheld=[withheld[i] for i in order],
        )

    def score(self, images: Sequence[Image.Image], identity: Identity) -> list[float]:
        """Likeness of each picture's largest face to the identity: cosine, -1 to 1; NaN where no face is found."""
        target = identity.embedding.numpy()
        scores = []
        with self._lock, self._faces():
            for image in images:
                found = embed_largest(image, self.analyzer.detector, self.analyzer.recogniser)
                scores.append(math.nan if found is None else float(found @ target))
        return scores

    def _sample(
        self,
        identity: Identity,
        prompt: str,
        settings: Settings,
        given: Given,
        seeds: Sequence[int],
        face_text: str | None,
        parts: Mapping[str, str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[list[Image.Image], list[Image.Image], list[bool]]:
        """For each seed what was sampled, the picture it is part of, and whether the safety checker withheld it."""
        identity.check_networks(self.adapter.spec.networks)  # before the base, which may be slow to load
        check_base(self.pipe, given)
        pipe = self._pipe_for(given)
        native = pipe.unet.config.sample_size * pipe.vae_scale_factor
        canvas = given.canvas((settings.width or native, settings.height or native))
        batches = [seeds[i : i + settings.batch_size] for i in range(0, len(seeds), settings.batch_size)]
        images: list[Image.Image] = []
        withheld: list[bool] = []
        keep: Callback | None = None

        def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if progress:
                done, total = len(images), len(seeds)
                each = min(settings.batch_size, total - done)
                progress(done * pipe.num_timesteps + (step + 1) * each, total * pipe.num_timesteps)
            return (keep(pipe, step, timestep, tensors) if keep else None) or {}

        self.adapter.scale = settings.scale
        inputs = self._inputs_of(identity, prompt, settings, face_text, parts)
        step = replace(inputs["callback_on_step_end"], callback=after_step)
        inputs = inputs | {
            "callback_on_step_end": step,
            "callback_on_step_end_tensor_inputs": step.tensor_inputs,
            "num_inference_steps": settings.steps,
        }
        for batch in batches:
            if given.image and given.mask and canvas and not inpaints(pipe):
                keep = keeping(pipe, canvas.cut(given.image), canvas.cut(given.mask), batch)
            output = pipe(
                **inputs,
                **call_arguments(pipe, given, canvas, settings, len(batch)),
                num_images_per_prompt=len(batch),
                # On the CPU, so that a seed means the same picture on every device.
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch],
            )
            images += output.images
            withheld += getattr(output, "nsfw_content_detected", None) or [False] * len(batch)
        if given.image is None or given.mask is None or canvas is None:
            return images, images, withheld
        return images, [canvas.paste(image, given.image, given.mask) for image in images], withheld

    def _pipe_for(self, given: Given) -> Any:
        """The pipeline that takes what is given; it shares all networks with `pipe`."""
        if not given.image and not given.control:
            return self.pipe
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image

        kind = AutoPipelineForText2Image
        if given.image:
            kind = AutoPipelineForInpainting if given.mask and inpaints(self.pipe) else AutoPipelineForImage2Image
        more = {"controlnet": self.controlnet} if given.control else {}
        return self._ready(kind.from_pipe(self.pipe, **more))

    def _inputs_of(
        self,
        identity: Identity,
        prompt: str,
        settings: Settings,
        face_text: str | None,
        parts: Mapping[str, str] | None,
    ) -> dict[str, Any]:
        """`ConsistentID.inputs`, made once for an identity and a text as long as the networks stay as they are."""
        self.adapter.check_attached()
        texts = [network for name, network in self.pipe.components.items() if name.startswith("text_encoder")]
        makers = [self.adapter.image_projection, self.adapter.facial_encoder, *filter(None, texts)]
        made_by = [(x, x._version) for network in makers for x in network.parameters()]
        # a LoRA on a text encoder is weighed by numbers that leave no trace in its parameters
        unsure = any(getattr(network, "peft_config", None) for network in texts)
        if unsure or not _same_weights(made_by, self._made_by):
            self._inputs.clear()
            self._made_by = made_by
        described = tuple((parts or {}).items())
        negative, guidance = settings.negative_prompt or None, settings.guidance_scale
        key = (identity, prompt, negative, face_text, described, settings.merge_at, guidance)
        if key not in self._inputs:
            self._inputs[key] = self.adapter.inputs(
                identity,
                prompt,
                negative,
                face_text=face_text,
                parts=parts,
                merge_at=settings.merge_at,
                guidance_scale=guidance,
            )
        self._inputs.move_to_end(key)
        while len(self._inputs) > _REMEMBERED:
            self._inputs.popitem(last=False)
        return self._inputs[key]


def _same_weights(a: Sequence[tuple[Any, int]], b: Sequence[tuple[Any, int]]) -> bool:
    """Whether these are the same parameters, and none was trained or loaded into since."""
    return len(a) == len(b) and all(x is y and m == n for (x, m), (y, n) in zip(a, b, strict=True))
