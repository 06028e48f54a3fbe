"""`ConsistentIDPipeline`: the networks of a preset put together; photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import inspect
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from consistentid.adapter import ConsistentID
from consistentid.canvas import Canvas
from consistentid.devices import moved, resolve_device, resolve_dtype
from consistentid.errors import CheckpointError, ConsistentIDError, InputError
from consistentid.faces.analyzer import Detector, FaceAnalyzer, embed_largest
from consistentid.faces.caption import Captioner
from consistentid.faces.detection import OnnxDetector, insightface_networks
from consistentid.faces.encode import IdentityEncoder
from consistentid.faces.from_labels import LabelDetector
from consistentid.faces.guard import DrawingGuard
from consistentid.faces.parsing import FaceParser
from consistentid.faces.provenance import fingerprint
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.identity import Identity
from consistentid.images import load_image, to_rgb
from consistentid.merge import Callback
from consistentid.presets import SAMPLERS, UNREACHABLE, Network, Preset, Sampler, Settings, first_line, load_preset

Photo = str | PathLike[str] | Image.Image

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
                _load_lora(pipe, lora, f"lora{number}")
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
            controlnet = _load_controlnet(network, self.dtype)
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
        images = [_read(x, name) for x, name in zip(photos, names, strict=True)]
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
        given = _Given.read(image, mask, control)
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
        given: _Given,
        seeds: Sequence[int],
        face_text: str | None,
        parts: Mapping[str, str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[list[Image.Image], list[Image.Image], list[bool]]:
        """For each seed what was sampled, the picture it is part of, and whether the safety checker withheld it."""
        identity.check_networks(self.adapter.spec.networks)  # before the base, which may be slow to load
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
            if given.image and given.mask and canvas and not _inpaints(pipe):
                keep = _keeping(pipe, canvas.cut(given.image), canvas.cut(given.mask), batch)
            output = pipe(
                **inputs,
                **_call_arguments(pipe, given, canvas, settings, len(batch)),
                num_images_per_prompt=len(batch),
                # On the CPU, so that a seed means the same picture on every device.
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch],
            )
            images += output.images
            withheld += getattr(output, "nsfw_content_detected", None) or [False] * len(batch)
        if given.image is None or given.mask is None or canvas is None:
            return images, images, withheld
        return images, [canvas.paste(image, given.image, given.mask) for image in images], withheld

    def _pipe_for(self, given: _Given) -> Any:
        """The pipeline that takes what is given; it shares all networks with `pipe`."""
        if not given.image and not given.control:
            return self.pipe
        from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image

        kind = AutoPipelineForText2Image
        if given.image:
            kind = AutoPipelineForInpainting if given.mask and _inpaints(self.pipe) else AutoPipelineForImage2Image
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
        networks = [self.adapter.image_projection, self.adapter.facial_encoder, *filter(None, texts)]
        made_by = [(x, x._version) for network in networks for x in network.parameters()]
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


@dataclass(frozen=True)
class _Given:
    """The pictures of a call."""

    image: Image.Image | None
    mask: Image.Image | None
    control: Image.Image | None

    @classmethod
    def read(cls, image: Photo | None, mask: Photo | None, control: Photo | None) -> _Given:
        """Raises InputError for pictures that cannot be read or do not go together."""
        if mask is not None and image is None:
            raise InputError("mask says what of image is drawn anew; give image, too")
        start = None if image is None else _read(image, "image")
        area = None if mask is None else _read(mask, "mask").convert("L")
        follow = None if control is None else _read(control, "control")
        if start and area and start.size != area.size:
            raise InputError(f"the mask is {_size(area)} pixels, the image {_size(start)}; give a mask of its size")
        if start and follow:
            # the same shape but for rounding: squeezed into another one it would lead astray
            if not math.isclose(start.width / start.height, follow.width / follow.height, rel_tol=0.02):
                raise InputError(
                    f"control is {_size(follow)} pixels, the image {_size(start)}; give a control picture of its shape"
                )
            follow = follow.resize(start.size, Image.Resampling.LANCZOS)
        return cls(start, area, follow)

    def canvas(self, base: tuple[int, int]) -> Canvas | None:
        """What of the given pictures is sampled; None without any."""
        if self.mask:
            return Canvas.around(self.mask, base)
        leading = self.image or self.control
        return Canvas.whole(leading.size, base) if leading else None


def _read(photo: Photo, name: str) -> Image.Image:
    return to_rgb(photo, name) if isinstance(photo, Image.Image) else load_image(photo)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _call_arguments(pipe: Any, given: _Given, canvas: Canvas | None, settings: Settings, batch: int) -> dict[str, Any]:
    """What the pipeline of `ConsistentIDPipeline._pipe_for` wants besides the text."""
    if canvas is None:
        return {"width": settings.width or None, "height": settings.height or None}
    known = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = dict(zip(("width", "height"), canvas.size, strict=True)) if "width" in known else {}
    if given.image:
        # one for each picture, so that each is encoded with noise of its own seed
        arguments |= {"image": [canvas.cut(given.image)] * batch, "strength": settings.strength}
    if given.mask and "mask_image" in known:
        arguments["mask_image"] = canvas.cut(given.mask)
    if given.control:
        arguments["control_image" if given.image else "image"] = canvas.cut(given.control)
        arguments["controlnet_conditioning_scale"] = float(settings.control_scale)
    return arguments


def _inpaints(pipe: Any) -> bool:
    """Whether diffusers' inpainting knows latents like these."""
    return pipe.unet.config.in_channels in (4, 9)


@torch.no_grad()
def _keeping(pipe: Any, image: Image.Image, mask: Image.Image, seeds: Sequence[int]) -> Callback:
    """A callback that makes of img2img what `_inpaints` lacks: unmasked latents follow the picture, noised as the rest.

    Args:
        pipe: an img2img pipeline.
        image, mask: of the size that is sampled.
        seeds: of the pictures of a batch.
    """
    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(image).to(pipe._execution_device, vae.dtype)
    start = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    noise = [torch.randn(start.shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    noises = torch.cat(noise).to(start)
    white = torch.from_numpy(np.asarray(mask) >= 128).to(start)[None, None]
    free = torch.nn.functional.interpolate(white, start.shape[-2:]).bool()

    def keep(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        left = pipe.num_timesteps - step - 1
        known = start.expand_as(noises)
        if left:
            known = pipe.scheduler.add_noise(known, noises, pipe.scheduler.timesteps[-left:][:1])
        return {"latents": torch.where(free, tensors["latents"], known.to(tensors["latents"]))}

    return keep


def _same_weights(a: Sequence[tuple[Any, int]], b: Sequence[tuple[Any, int]]) -> bool:
    """Whether these are the same parameters, and none was trained or loaded into since."""
    return len(a) == len(b) and all(x is y and m == n for (x, m), (y, n) in zip(a, b, strict=True))


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
    """The diffusers pipeline of a preset; the width of its text says which family a single file is of.

    Raises:
        InputError: an unknown scheduler.
    """
    import diffusers

    import consistentid.nn.patch_autoencoder  # noqa: F401 - diffusers loads a class of ours only if it is imported

    base = preset.base
    if len(base.files) == 1 or (base.path and base.path.is_file()):
        kind = "StableDiffusionXLPipeline" if text_dim > 1024 else "StableDiffusionPipeline"
        pipe = getattr(diffusers, kind).from_single_file(str(base.fetch()), dtype=dtype)
    else:
        source, options = base.pretrained
        pipe = diffusers.DiffusionPipeline.from_pretrained(source, dtype=dtype, **options)
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


def _load_lora(pipe: Any, lora: Network, name: str) -> None:
    if lora.path or lora.files:
        file = lora.fetch()
        source, options = (file.parent, {"weight_name": file.name}) if file.is_file() else (file, {})
        pipe.load_lora_weights(str(source), adapter_name=name, **options)
    else:
        pipe.load_lora_weights(lora.repo, revision=lora.revision, adapter_name=name)
    if name not in {found for names in pipe.get_list_adapters().values() for found in names}:
        raise CheckpointError(f"{lora}: has no layers of this base; choose a LoRA made for its family")


def _load_controlnet(network: Network, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel

    if len(network.files) == 1 or (network.path and network.path.is_file()):
        return ControlNetModel.from_single_file(str(network.fetch()), dtype=dtype).eval()
    source, options = network.pretrained
    model, report = ControlNetModel.from_pretrained(source, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"controlnet: {network} lacks {len(missing)} weights, first {missing[0]}; it is no ControlNet"
        )
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
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"image_encoder: {network} lacks {len(missing)} weights, first {missing[0]}; it is no CLIP vision model"
        )
    return model.eval().requires_grad_(False), CLIPImageProcessorPil.from_pretrained(source, **options)


def load_analyzer(preset: Preset) -> FaceAnalyzer:
    """The face networks of a preset, on the CPU.

    Raises:
        CheckpointError: weights are missing, broken, or of another kind.
    """
    with loading("parser", preset.parser):
        load = FaceParser.bisenet if preset.parser.kind == "bisenet" else FaceParser.segformer
        parser = load(preset.parser.fetch())
    with loading("detector", preset.detector):
        detector: Detector = (
            LabelDetector(parser) if preset.detector.kind == "labels" else OnnxDetector(onnx_file(preset.detector))
        )
    with loading("recogniser", preset.recogniser):
        recogniser = OnnxRecogniser(onnx_file(preset.recogniser))
    return FaceAnalyzer(detector, recogniser, parser, DrawingGuard() if preset.drawings_only else None)


def onnx_file(network: Network) -> Path:
    """An ONNX file; one of kind "insightface" is of a model pack, which that library fetches if it is not there."""
    if network.kind == "insightface" and network.path and not network.path.exists():
        pack = network.path.parent  # ROOT/models/PACK/FILE.onnx
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
