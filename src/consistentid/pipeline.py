"""`ConsistentIDPipeline`: the networks of a preset put together; photos and a prompt in, portraits and likeness out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from consistentid.adapter import ConsistentID
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
from consistentid.presets import UNREACHABLE, Network, Preset, Settings, first_line, load_preset

Photo = str | PathLike[str] | Image.Image

_SEEDS = 2**32  # torch's generator on the CPU uses no more bits


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

    Args:
        preset: which networks, and the settings they were made for.
        device: where to compute, e.g. "cpu", "cuda", "cuda:1", "mps"; the best there is by default.
        dtype: "auto", "float32", "float16", "bfloat16" or a torch dtype; the preset's by default.

    Raises:
        InputError: a device that is not there, or an unknown dtype.
    """

    def __init__(
        self, preset: Preset, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> None:
        self.preset = preset
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype or preset.dtype, self.device)

    @classmethod
    def from_preset(
        cls,
        name_or_path: str | PathLike[str],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **overrides: Any,
    ) -> ConsistentIDPipeline:
        """The preset of that name, folder or YAML file; `overrides` replace networks or settings in it.

        Raises:
            InputError: no such preset, override, device or dtype; the message lists what there is.
        """
        return cls(load_preset(name_or_path).override(**overrides), device, dtype)

    @cached_property
    def adapter(self) -> ConsistentID:
        """The ConsistentID weights."""
        network = self.preset.adapter
        with _loading("adapter", network):
            if network.path or network.files:
                return ConsistentID.from_pretrained(network.fetch())
            return ConsistentID.from_pretrained(network.repo, revision=network.revision)

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline with the adapter attached.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        with _loading("base", self.preset.base):
            pipe = _load_base(self.preset, self.adapter.spec.text_dim, self.dtype).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        self.adapter.to(self.device, self.dtype).attach(pipe)
        return pipe

    @cached_property
    def analyzer(self) -> FaceAnalyzer:
        """The face networks.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        return _load_analyzer(self.preset, self.device)

    @cached_property
    def encoder(self) -> IdentityEncoder:
        """Face networks and image encoder, which make an `Identity` of photos.

        Raises:
            CheckpointError: weights are missing, broken, or of another kind.
        """
        preset = self.preset
        analyzer = self.analyzer
        with _loading("image_encoder", preset.image_encoder):
            image_encoder, processor = _load_image_encoder(preset.image_encoder, self.dtype)
        used = {"recogniser": preset.recogniser, "image_encoder": preset.image_encoder, "parser": preset.parser}
        return IdentityEncoder(
            analyzer,
            image_encoder.to(self.device),
            processor,
            part_layout=self.adapter.spec.part_layout,
            canvas_size=preset.canvas_size,
            provenance={role: _provenance(network) for role, network in used.items()},
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
        with _loading("judge", network):
            return OnnxRecogniser(_onnx_file(network))

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
        images = [
            to_rgb(x, name) if isinstance(x, Image.Image) else load_image(x)
            for x, name in zip(photos, names, strict=True)
        ]
        return self.encoder.encode(*images, names=names, face_index=face_index, captioner=captioner)

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
        face_text: str | None = None,
        parts: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Portraits:
        """Portraits of the person; what is left out comes from the preset's settings, whose meaning is in `Settings`.

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
            height, width: pixels.
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
        images, withheld = self._sample(identity, prompt, settings, seeds, face_text, parts, progress)
        scores = self.score(images, identity)
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
        for image in images:
            found = embed_largest(image, self.analyzer.detector, self.analyzer.recogniser)
            scores.append(math.nan if found is None else float(found @ target))
        return scores

    def _sample(
        self,
        identity: Identity,
        prompt: str,
        settings: Settings,
        seeds: Sequence[int],
        face_text: str | None,
        parts: Mapping[str, str] | None,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[list[Image.Image], list[bool]]:
        """A picture for each seed, in batches of like size, and whether the safety checker withheld it."""
        identity.check_networks(self.adapter.spec.networks)  # before the base, which may be slow to load
        pipe = self.pipe
        batches = [seeds[i : i + settings.batch_size] for i in range(0, len(seeds), settings.batch_size)]
        images: list[Image.Image] = []
        withheld: list[bool] = []

        def after_step(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            if progress:
                done, total = len(images), len(seeds)
                each = min(settings.batch_size, total - done)
                progress(done * pipe.num_timesteps + (step + 1) * each, total * pipe.num_timesteps)
            return {}

        self.adapter.scale = settings.scale
        inputs = self.adapter.inputs(
            identity,
            prompt,
            settings.negative_prompt or None,
            face_text=face_text,
            parts=parts,
            merge_at=settings.merge_at,
            guidance_scale=settings.guidance_scale,
            callback=after_step,
        )
        for batch in batches:
            output = pipe(
                **inputs,
                num_images_per_prompt=len(batch),
                num_inference_steps=settings.steps,
                height=settings.height or None,
                width=settings.width or None,
                # On the CPU, so that a seed means the same picture on every device.
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in batch],
            )
            images += output.images
            withheld += getattr(output, "nsfw_content_detected", None) or [False] * len(batch)
        return images, withheld


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or the best there is.

    Raises:
        InputError: it is not there; the message lists those that are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if device is None:
        return torch.device("cuda" if len(there) > 1 and there[1] == "cuda:0" else there[-1])
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or not any(name in (str(found), f"{found}:0") for name in there):
        raise InputError(f"device={str(device)!r} is not there; this machine has {', '.join(there)}")
    return found


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The number format of that name; "auto" is float16 on a GPU and float32 on a CPU, which is slow at less.

    Raises:
        InputError: an unknown name.
    """
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    known["auto"] = torch.float32 if device.type == "cpu" else torch.float16
    if dtype in known.values():
        return dtype  # type: ignore[return-value]  # a torch dtype already
    if dtype not in known:
        raise InputError(f"dtype={dtype!r} is not known; give one of {', '.join(known)}")
    return known[str(dtype)]


@contextmanager
def _loading(role: str, network: Network) -> Iterator[None]:
    """Errors of other libraries about a network's files as one that names the network."""
    try:
        yield
    except ConsistentIDError:
        raise
    except Exception as error:  # a broken file makes loaders raise nearly anything
        remedy = "get its files again or correct the preset" if network.path else UNREACHABLE
        raise CheckpointError(f"{role}: {network} cannot be loaded ({first_line(error)}); {remedy}") from error


def _load_base(preset: Preset, text_dim: int, dtype: torch.dtype) -> Any:
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
        known = getattr(diffusers, preset.scheduler, None)
        if known is None:
            raise InputError(f"scheduler={preset.scheduler!r} is not known; give a scheduler class of diffusers")
        pipe.scheduler = known.from_config(pipe.scheduler.config, **preset.scheduler_options)
    return pipe


def _load_image_encoder(network: Network, dtype: torch.dtype) -> tuple[Any, Any]:
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


def _load_analyzer(preset: Preset, device: torch.device) -> FaceAnalyzer:
    with _loading("parser", preset.parser):
        load = FaceParser.bisenet if preset.parser.kind == "bisenet" else FaceParser.segformer
        parser = load(preset.parser.fetch(), device)
    with _loading("detector", preset.detector):
        detector: Detector = (
            LabelDetector(parser) if preset.detector.kind == "labels" else OnnxDetector(_onnx_file(preset.detector))
        )
    with _loading("recogniser", preset.recogniser):
        recogniser = OnnxRecogniser(_onnx_file(preset.recogniser))
    return FaceAnalyzer(detector, recogniser, parser, DrawingGuard() if preset.drawings_only else None)


def _onnx_file(network: Network) -> Path:
    """An ONNX file; one of kind "insightface" is of a model pack, which that library fetches if it is not there."""
    if network.kind == "insightface" and network.path and not network.path.exists():
        pack = network.path.parent  # ROOT/models/PACK/FILE.onnx
        insightface_networks(pack.name, root=str(pack.parents[1]))
    return network.fetch()


def _provenance(network: Network) -> str:
    """Name and hash of a network's weights, the same on every machine; empty where they cannot be told."""
    found = network.find()
    if found is None:
        return ""
    if len(network.files) > 1:  # the hub's cache may hold other weights of that repository, too
        return fingerprint(found / network.files[-1], name=network.repo.rpartition("/")[2])
    return fingerprint(found)
